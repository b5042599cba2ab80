"""Export a trained segmentation network to a file that runs without this code: ONNX or TorchScript.

    python -m lib.export exp/my/seg/model.pth --onnx my.onnx
    python -m lib.export exp/my/seg/model.pth --torchscript my.pt --image photo.jpg

Input `image`: RGB uint8 [1, H, W, 3] of any size. Output `probs`: float32 [1, C, H, W], one map per class with
background first; the label of a pixel is the index of its largest value. The network runs at one scale, without flip
and CRF. The normalisation is built in. The metadata hold the class names (`classes`) and the long side to which larger
images should be reduced (`max_side`): in ONNX as JSON, in TorchScript in the extra file facts.json.

The file is kept only if it agrees with the network: on at least 99.9 % of the pixels of a test image.
"""
import argparse
import json
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lib.files.fileio import refuse_foreign, refuse_inputs, replacing
from lib.files.imageio import read_image
from lib.inference import fold_batch_norms
from lib.predict import load_deeplab
from lib.process.cli import Parser
from lib.process.ending import run_script
from tool.imutils import Norm

MAKER = 'lib.export'
AGREEMENT = 0.999               # least fraction of pixels
SIDES = (97, 121), (120, 90)    # height and width of the image that is traced, and of the one that is compared


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__, prog='python -m lib.export')
    parser.add_argument('model', type=Path, help='model.pth of train_seg.py')
    parser.add_argument('--onnx', type=Path, metavar='FILE', help='write ONNX')
    parser.add_argument('--torchscript', type=Path, metavar='FILE', help='write TorchScript')
    parser.add_argument('--image', type=Path, metavar='FILE', help='photo for the comparison; the default is noise')
    return parser


class PhotoToProbs(nn.Module):
    """A network with its normalisation: RGB uint8 [N, H, W, 3] -> probabilities float32 [N, C, H, W].

    `network` makes logits [N, C, H, W] of normalised images [N, 3, H, W]; size_step: see lib/net/backbone.py.
    """

    def __init__(self, network: nn.Module, norm: Norm, size_step: int | None):
        super().__init__()
        self.network, self.step = network, size_step
        for name, values in (('mean', norm.mean), ('std', norm.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * 255)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        height, width = x.shape[-2:]
        if self.step:
            fitting = [(side - 1 + self.step // 2) // self.step * self.step + 1 for side in (height, width)]
            x = F.interpolate(x, fitting, mode='bilinear', align_corners=True)
        logits = self.network(x)
        if self.step:
            logits = F.interpolate(logits, (height, width), mode='bilinear', align_corners=True)
        return logits.softmax(1)


def write_onnx(path: Path, module: nn.Module, image: torch.Tensor, facts: Mapping[str, Any]) -> None:
    """Write ONNX for images of any size, with the facts in its metadata."""
    import onnx
    import_module('onnxruntime')        # needed below: missing, it is named before any work
    if getattr(module.network.backbone, 'interpolates', False):
        raise ValueError('--onnx: the backbone interpolates its position embeddings, for which ONNX has no operation; '
                         'use --torchscript')
    free = {'image': {1: 'height', 2: 'width'}, 'probs': {2: 'height', 3: 'width'}}
    # The exporter that traces: the newer one takes minutes for the same file.
    torch.onnx.export(module, (image,), str(path), input_names=['image'], output_names=['probs'], dynamic_axes=free,
                      opset_version=17, dynamo=False)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: value if isinstance(value, str) else json.dumps(value)
                                        for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def run_onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The exported network."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(session.run(None, {'image': image.numpy()})[0])


def write_torchscript(path: Path, module: nn.Module, image: torch.Tensor, facts: Mapping[str, Any]) -> None:
    """Write TorchScript for images of any size, with the facts in its extra file facts.json."""
    torch.jit.save(torch.jit.trace(module, image, check_trace=False), str(path),
                   _extra_files={'facts.json': json.dumps(dict(facts))})


FORMS = {'onnx': (write_onnx, run_onnx), 'torchscript': (write_torchscript, torch.jit.load)}


@torch.inference_mode()
def agreement(exported: Callable, module: nn.Module, image: torch.Tensor) -> float:
    """Fraction of pixels [1, H, W, 3] to which both give the same label."""
    labels, expected = (network(image).argmax(1) for network in (exported, module))
    return float((labels == expected).double().mean())


def main(argv: list[str] | None = None) -> None:
    """Write the requested files."""
    args = make_parser().parse_args(argv)
    targets = {form: path for form in FORMS if (path := getattr(args, form))}
    if not targets:
        raise ValueError('give --onnx FILE or --torchscript FILE')
    refuse_inputs(targets.values(), [args.model, *filter(None, [args.image])])
    for form, path in targets.items():
        refuse_foreign(path, MAKER, f'--{form}')

    # The network with its normalisation.
    trained = load_deeplab(args.model)
    module = PhotoToProbs(fold_batch_norms(trained.network.eval()), trained.norm, trained.size_step).eval()
    facts = {'made_by': MAKER, 'classes': ['background', *trained.classes], 'max_side': trained.max_side}
    noise, other = (torch.randint(0, 256, (1, *sides, 3), dtype=torch.uint8) for sides in SIDES)
    photo = torch.from_numpy(read_image(args.image, True, trained.max_side))[None] if args.image else other

    for form, path in targets.items():
        write, load = FORMS[form]
        with replacing(path) as temporary:
            try:
                with warnings.catch_warnings(action='ignore'):      # about tracing
                    write(temporary, module, noise, facts)
                same = agreement(load(temporary), module, photo)
            except ImportError as error:
                raise ImportError(f'--{form} needs a package that is not installed ({error}); '
                                  'pip install -r requirements-export.txt') from error
            if same < AGREEMENT:
                raise ValueError(f'{path} would label only {same:.2%} of the pixels as the network does; use the other '
                                 'format, or another version of torch')
        print(f'{path}: {len(trained.classes)} classes, {path.stat().st_size / 1e6:.1f} MB, {same:.2%} of the pixels '
              'labelled as by the network')


if __name__ == '__main__':
    run_script(main)
