"""The single comparisons of compare.py, each to be run in its own process.

    python -m benchmarks.parts walk --device cpu

prints one line of JSON: 'values' by key, 'seconds' and 'bytes' of each form, and 'agreement': what was compared, the
difference found, and the tolerance.
"""
import argparse
import io
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import textbook_stages
from benchmarks.crf_parts import crf_final, crf_memory, crf_seeds
from benchmarks.measure import alternate, peak_memory
from benchmarks.network_parts import cam_infer, cam_step, cam_step_large
from benchmarks.real_looking import photo_like, real_looking_labels
from lib.data.labelio import read_maps, read_seeds, write_maps, write_seeds
from lib.data.registry import get_spec
from lib.run.record import processor
from tool.affutils import affinity_label, offsets, random_walk, source_size
from tool.camutils import cam_label
from tool.evalutils import PUBLISHED, Curve, contour_matches
from tool.probutils import fsl_loss, fsl_loss_plain

SIZE = (375, 500)


def fsl_inputs(device: torch.device, batch: int = 8, side: int = 56) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth maps [N,C,side,side] with a gradient, and images of the same size in [0, 1]."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels):
        coarse = torch.rand(batch, channels, side // 4, side // 4, generator=generator)
        return torch.nn.functional.interpolate(coarse, (side, side), mode='bicubic').clamp(0, 1).to(device)

    return smooth(get_spec('voc12').num_classes).requires_grad_(), smooth(3)


def named(part: str, seconds: dict[str, float]) -> dict[str, float]:
    """The seconds of each form, with the part's name before the form's."""
    return {f'{part} {form}': value for form, value in seconds.items()}


def forward_backward(loss, cam: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss of maps and images, and its gradient for the maps."""
    value = loss(cam, images)
    return value.detach(), torch.autograd.grad(value, cam)[0]


def fsl(device: torch.device) -> dict:
    """Feature-similarity loss, forward and backward."""
    inputs = fsl_inputs(device)
    forms = {'textbook': lambda: forward_backward(fsl_loss_plain, *inputs),
             'ours': lambda: forward_backward(fsl_loss, *inputs)}
    seconds, results = alternate(forms, device, rounds=3)
    (plain, plain_grad), (value, grad) = results['textbook'], results['ours']
    return {'values': {'fsl_speedup': seconds['textbook'] / seconds['ours']}, 'seconds': named('fsl', seconds),
            'agreement': {'FSL, relative': (float((value - plain).abs() / plain.abs()), 1e-5),
                          'gradient of FSL, relative to its largest': (
                              float((grad - plain_grad).abs().max() / plain_grad.abs().max()), 1e-5)}}


def fsl_memory(device: torch.device, form: str) -> dict:
    """Bytes beyond the inputs of one form of the feature-similarity loss, forward and backward."""
    loss = {'textbook': fsl_loss_plain, 'ours': fsl_loss}[form]
    forward_backward(loss, *fsl_inputs(device, batch=1, side=8))        # loads what the first call loads
    inputs = fsl_inputs(device)
    return {'bytes': {f'fsl {form}': peak_memory(lambda: forward_backward(loss, *inputs), device)}}


def walk(device: torch.device) -> dict:
    """Random walk on the map of an image of 500x375 with two classes, affinities given. Ours runs on the CPU."""
    size = tuple(-(-side // 8) for side in SIZE)
    rng = np.random.default_rng(0)
    rows, columns = source_size(5, size)
    affinity = rng.uniform(0.3, 1, (len(offsets()), rows * columns)).astype(np.float32)
    cam = rng.random((3, *size)).astype(np.float32)
    dense = torch.from_numpy(affinity).to(device), torch.from_numpy(cam).to(device)
    seconds, results = alternate({
        'textbook': lambda: textbook_stages.random_walk(dense[0], offsets(), size, dense[1]).cpu().numpy(),
        'ours': lambda: random_walk(affinity, size, cam)}, device, rounds=3)
    difference = float(np.abs(results['ours'] - results['textbook']).max() / np.abs(results['textbook']).max())
    return {'values': {'walk_speedup': seconds['textbook'] / seconds['ours']}, 'seconds': named('walk', seconds),
            'agreement': {'walk, relative to its largest': (difference, 1e-4)}}


def score_inputs(num_classes: int, count: int = 200) -> list[tuple[np.ndarray, list[int], np.ndarray]]:
    """(truth, class indices, CAM) of images that show one to three classes."""
    rng, result = np.random.default_rng(0), []
    drawn = [real_looking_labels(seed, *SIZE, classes=1 + seed % 3, alphas=()) for seed in range(9)]
    for number in range(count):
        seed = number % len(drawn)
        places, cam, _ = drawn[seed]
        flip = (slice(None, None, 1 - 2 * int(rng.integers(2))), slice(None, None, 1 - 2 * int(rng.integers(2))))
        keys = sorted(rng.choice(num_classes - 1, len(places), replace=False).tolist())
        value_of = np.zeros(256, np.uint8)
        value_of[[place + 1 for place in places]] = [key + 1 for key in keys]
        truth = value_of[photo_like(seed, *SIZE, classes=1 + seed % 3)[1]]
        result.append((np.ascontiguousarray(truth[flip]), keys, np.ascontiguousarray(cam[:, *flip])))
    return result


def scores(device: torch.device) -> dict:
    """IoU at the published thresholds (ours counts all), and contour counts at one, of 200 label maps."""
    num_classes = get_spec('voc12').num_classes
    images = score_inputs(num_classes)
    labels = [(truth, cam_label(keys, cam, 0.25)) for truth, keys, cam in images]

    def one_pass():
        sums = Curve(num_classes)
        for image in images:
            sums.add(*image)
        return sums.iou()[:PUBLISHED]

    curve_seconds, curves = alternate({
        'textbook': lambda: textbook_stages.curve(images, num_classes, textbook_stages.label_map),
        'ours': one_pass}, device, rounds=1)
    contour_seconds, contours = alternate({
        name: lambda form=form: sum(form(truth, label, num_classes) for truth, label in labels)
        for name, form in (('textbook', textbook_stages.contour_matches), ('ours', contour_matches))}, device, rounds=3)
    return {'values': {'curve_speedup': curve_seconds['textbook'] / curve_seconds['ours'],
                       'contour_speedup': contour_seconds['textbook'] / contour_seconds['ours']},
            'seconds': named('curve', curve_seconds) | named('contour', contour_seconds),
            'agreement': {'IoU at all published thresholds': (
                              float(np.abs(curves['ours'] - curves['textbook']).max()), 1e-9),
                          'contour counts': (int(np.abs(contours['ours'] - contours['textbook']).max()), 0)}}


def labels(device: torch.device) -> dict:
    """Bytes of CAMs and both seeds as float32 .npy and as our files, and the affinity labels derived from both."""
    plain = stored = different = positions = 0
    with tempfile.TemporaryDirectory() as folder:
        cam_file, seed_file = Path(folder) / 'cam.npz', Path(folder) / 'seeds.npz'
        for seed in range(4):
            keys, cam, seeds = real_looking_labels(seed, *SIZE, classes=1 + seed % 2)
            for array in (cam, *seeds.values()):
                buffer = io.BytesIO()
                np.save(buffer, array.astype(np.float32))
                plain += buffer.tell()
            write_maps(cam_file, keys, cam)
            write_seeds(seed_file, keys, seeds)
            stored += cam_file.stat().st_size + seed_file.stat().st_size
            read_maps(cam_file)
            one, other = (affinity_label(*(part[alpha] for alpha in (1.0, 24.0)))
                          for part in (seeds, read_seeds(seed_file)[1]))
            different, positions = different + int((one != other).sum()), positions + one.size
    return {'values': {'label_bytes_ratio': plain / stored}, 'bytes': {'labels textbook': plain, 'labels ours': stored},
            'agreement': {'share of affinity labels that differ': (different / positions, 1e-3)}}


CRF_PARTS = {'crf_seeds_2': partial(crf_seeds, classes=2), 'crf_seeds_4': partial(crf_seeds, classes=4),
             'crf_final_21': partial(crf_final, classes=get_spec('voc12').num_classes),
             'crf_memory_pydensecrf': partial(crf_memory, classes=get_spec('voc12').num_classes, backend='pydensecrf'),
             'crf_memory_ours': partial(crf_memory, classes=get_spec('voc12').num_classes, backend='torch')}
PARTS = {**CRF_PARTS, 'fsl': fsl, 'fsl_memory_textbook': lambda device: fsl_memory(device, 'textbook'),
         'fsl_memory_ours': lambda device: fsl_memory(device, 'ours'), 'walk': walk, 'scores': scores, 'labels': labels,
         'cam_infer': cam_infer, 'cam_step': cam_step, 'cam_step_large': cam_step_large}


def main(argv: list[str] | None = None) -> None:
    """Run one part and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=tuple(PARTS), help='the comparison')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    report = PARTS[args.part](device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else None
    cpu, flags = processor()
    print(json.dumps({**report, 'threads': torch.get_num_threads(), 'torch': torch.__version__, 'gpu': name,
                      'processor': f'{cpu} ({" ".join(flags)})'}))


if __name__ == '__main__':
    main()
