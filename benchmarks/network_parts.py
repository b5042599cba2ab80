"""The comparisons that run the network: SEAM at its published size with random weights, in inference and training."""
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import textbook_stages
from benchmarks.measure import alternate, peak_memory
from benchmarks.real_looking import photo_like
from infer_cam import add_views, infer_cams
from lib.cam_stage import make_parser, make_step
from lib.data.registry import get_spec
from lib.inference import Inference
from lib.net.freeze import freeze_early, make_optimizer, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.run import device as devices
from tool.imutils import normalise

SCALES = (0.5, 1.0, 1.5, 2.0)
ISL_TERMS = ('isl', 'cls1', 'cls', 'loss')      # sampled independently by each form


def make_seam(device: torch.device) -> Seam:
    """Published-size SEAM with random weights, the same at every call."""
    torch.manual_seed(0)
    return Seam(ResNet38d(), get_spec('voc12').num_classes).to(device)


def cam_infer(device: torch.device) -> dict:
    """CAMs of one 375x500 image with two classes, 4 scales and mirrors."""
    image, present = photo_like(0, 375, 500)[0], np.array([3, 11])
    forms, plain = {}, make_seam(device).eval()
    forms['textbook'] = lambda image=image: textbook_stages.infer_cams(plain, image, present, SCALES, device)
    for name, amp in (('fp32', None), ('bf16', torch.bfloat16)):
        forms[name] = inference(make_seam, image, present, amp, device)
    for form in forms.values():
        form(image[::4, ::4])                                               # loads what the first call loads
    seconds, results = alternate(forms, device)
    gap = {name: np.abs(results[name] - results['textbook']) for name in ('fp32', 'bf16')}
    return {'values': {f'cam_infer_speedup_{name}': seconds['textbook'] / seconds[name] for name in ('bf16', 'fp32')},
            'seconds': {f'inference {name}': value for name, value in seconds.items()},
            'agreement': {'CAM, fp32': (float(gap['fp32'].max()), 1e-3),
                          'CAM, bf16, mean': (float(gap['bf16'].mean()), 0.02)}}


def inference(make: Callable, image: np.ndarray, present: np.ndarray, amp: torch.dtype | None,
              device: torch.device) -> Callable[..., np.ndarray]:
    """Function that infers the CAMs of an image as infer_cam.py does."""
    run = Inference(make(device), device, amp, Path('random weights'))
    backbone, labels = run.network.backbone, np.isin(np.arange(get_spec('voc12').num_fg), present)

    def infer(image: np.ndarray = image) -> np.ndarray:
        sample = add_views({'image': image, 'image_labels': labels}, SCALES, backbone.norm, backbone.size_step)
        return run('photo', partial(infer_cams, sample, device=device))[2]

    return infer


class Trainer:
    """CAM network and optimiser at the published settings, and one batch; calling it trains one step of it."""

    def __init__(self, form: str, batch: int, crop: int, device: torch.device):
        amp = 'bf16' if form == 'bf16' else 'none'
        args = make_parser('', 'voc12').parse_args(['--amp', amp])
        network = make_seam(device)
        freeze_early(network)
        set_train_mode(network, batch_norm='running')
        dtype = devices.pick_amp(amp, device)
        self.network = network if form == 'textbook' else devices.place(network, device, dtype)
        self.optimizer = make_optimizer(self.network, 1e-6, args.momentum, args.weight_decay)
        norm, num_fg = network.backbone.norm, get_spec('voc12').num_fg
        images = np.stack([photo_like(seed, crop, crop)[0] for seed in range(batch)])
        self.images = torch.from_numpy(np.stack([normalise(image, norm) for image in images])).to(device)
        self.image_labels = torch.zeros(batch, num_fg, device=device)
        self.image_labels[:, :2] = 1
        wrapped = devices.parallel(self.network, device, amp=dtype)
        self.step = make_step(args, wrapped, norm) if form != 'textbook' else (
            lambda batch: textbook_stages.cam_terms(network, batch['image'], batch['image_labels'], norm))

    def __call__(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)                    # the same dropout at every call
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.step({'image': self.images, 'image_labels': self.image_labels})
        terms['loss'].backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in terms.items()}


def cam_step(device: torch.device) -> dict:
    """A CAM training step of 2 images at crop 224."""
    forms = {form: Trainer(form, 2, 224, device) for form in ('textbook', 'fp32', 'bf16')}
    first = {form: trainer() for form, trainer in forms.items()}            # from the same weights
    seconds, _ = alternate(forms, device, rounds=3)
    agreement = {}
    for form, allowed in (('fp32', 1e-3), ('bf16', 0.1)):
        gaps = [float((first[form][name] - value).abs() / value.abs().clamp(min=1e-3))
                for name, value in first['textbook'].items() if name not in ISL_TERMS]
        agreement[f'terms of the step, {form}, relative'] = (max(gaps), allowed)
    return {'values': {f'cam_step_speedup_{name}': seconds['textbook'] / seconds[name] for name in ('bf16', 'fp32')},
            'seconds': {f'step {name}': value for name, value in seconds.items()}, 'agreement': agreement}


def cam_step_large(device: torch.device) -> dict:
    """Images a second and peak memory of a CAM training step of 8 images at crop 448; for GPUs."""
    seconds, peaks = {}, {}
    for form in ('textbook', 'fp32', 'bf16'):
        trainer = Trainer(form, 8, 448, device)
        trainer()
        peaks[form] = peak_memory(trainer, device) + torch.cuda.memory_allocated(device)
        seconds |= alternate({form: trainer}, device, rounds=5)[0]
        del trainer
        torch.cuda.empty_cache()
    return {'values': {f'cam_step_images_per_s_{form}': 8 / value for form, value in seconds.items()}
            | {f'cam_step_peak_gb_{form}': value / 1e9 for form, value in peaks.items()}, 'seconds': {
                f'step of 8 at 448 {form}': value for form, value in seconds.items()}}
