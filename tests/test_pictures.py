"""The images that the training stages draw for TensorBoard while they train."""
from functools import partial

import numpy as np
import pytest
import torch

import train_aff
import train_seg
from lib import cam_stage
from lib.data.affinity import AffTrainSet
from lib.data.labelio import write_seeds
from lib.data.registry import read_spec
from lib.data.toy import write_set
from lib.files.imageio import read_size
from lib.training import draw_pictures, validation_samples

DEVICE = torch.device('cpu')


@pytest.fixture(scope='module')
def spec(tmp_path_factory):
    out = tmp_path_factory.mktemp('toy')
    write_set(out, train=3, val=2)
    return read_spec(out)


def settings(script):
    return script.make_parser().parse_args(['--width', '0.03', '--weights', 'none', '--crop-size', '128'])


def aff_case(spec, folder):
    args = settings(train_aff)
    network = train_aff.make_network(args)
    for sample in spec.samples('train'):
        height, width = read_size(sample.image)
        scores = np.zeros((2, height, width), np.float32)
        scores[0, :, :width // 2] = scores[1, :, width // 2:] = 1
        write_seeds(folder / f'{sample.name}.npz', [2], {1.0: scores, 24.0: scores})
    dataset = AffTrainSet(spec, 'train', crop=args.crop_size, seeds_dir=folder)
    draw_row = partial(train_aff.draw_row, args, network, DEVICE)
    samples = [dataset[0, index] for index in range(len(dataset))]
    return network, partial(draw_pictures, network, 'affinity', samples, draw_row)


def seg_case(spec, folder):
    args = settings(train_seg)
    network = train_seg.make_network(args, spec.num_classes)
    samples = [(read['image'], None) for _, read in validation_samples(args, spec, with_labels=False)]
    return network, partial(draw_pictures, network, 'segmentation', samples,
                            partial(train_seg.draw_row, network, DEVICE))


def cam_case(spec, folder):
    args = cam_stage.make_parser('', 'toy').parse_args(['--width', '0.03', '--weights', 'none', '--crop-size', '128'])
    network = cam_stage.make_network(args, spec)
    samples = [sample for _, sample in validation_samples(args, spec, with_labels=True)]
    return network, partial(draw_pictures, network, 'cam', samples,
                            partial(cam_stage.draw_row, args, network, DEVICE))


@pytest.mark.parametrize('case', [aff_case, seg_case, cam_case])
def test_drawing_leaves_the_network_and_the_random_state_alone(spec, tmp_path, case):
    network, draw = case(spec, tmp_path)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    first, second = draw(), draw()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    for name, image in first.items():
        assert image.dtype == np.uint8 and image.shape[2] == 3
        np.testing.assert_array_equal(image, second[name])


def test_affinity_image_has_three_crops_per_row(spec, tmp_path):
    image = aff_case(spec, tmp_path)[1]()['affinity']
    assert image.shape == (3 * 128 + 2 * 4, 3 * 128 + 2 * 4, 3)
    assert (image[..., 0] == image[..., 2])[:, -128:].all()         # the last column is grey
