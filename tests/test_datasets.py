import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lib.data.affinity import AffTrainSet
from lib.data.checks import label_pairs
from lib.data.datasets import CamTrainSet, InferSet, SegTrainSet, batch_keys, training_batches
from lib.data.files import FileSet
from lib.data.labelio import write_seeds
from lib.data.registry import get_spec
from lib.data.toy import write_set
from lib.files.imageio import write_label_png
from tool.imutils import IMAGENET_NORM, normalise

NUM = 6


@pytest.fixture(scope='module')
def toy_set(tmp_path_factory):
    """A toy set with seeds that are its ground truth and label PNGs that are copies of the masks."""
    root = tmp_path_factory.mktemp('toy')
    write_set(root, seed=0, train=NUM, val=2)
    spec = get_spec('toy', root=root)
    for split in ('train', 'val'):
        for sample in spec.samples(split):
            mask = np.array(Image.open(sample.mask))
            keys = [value - 1 for value in np.unique(mask).tolist() if value not in (0, 255)]
            scores = np.stack([(mask == value) for value in (0, *(key + 1 for key in keys))]).astype(np.float32)
            write_seeds(root / f'seeds/{sample.name}.npz', keys, {1: scores, 24: scores})
            write_label_png(root / f'walk/{sample.name}.png', mask)
    return spec


@pytest.fixture
def spec(toy_set):
    return toy_set


def cam_set(spec, **settings):
    return CamTrainSet(spec, 'train', IMAGENET_NORM, 64, (70, 90), **settings)


def aff_set(spec, folder='seeds', **settings):
    return AffTrainSet(spec, 'train', IMAGENET_NORM, settings.pop('crop', 64), spec.root / folder, **settings)


def seg_set(spec, folder='walk', **settings):
    return SegTrainSet(spec, 'train', IMAGENET_NORM, settings.pop('crop', 64), spec.root / folder, **settings)


def same(first, second):
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
               for a, b in ((first[key], second[key]) for key in first))


@pytest.mark.parametrize('make', [cam_set, aff_set, seg_set])
def test_sample_depends_on_seed_epoch_and_index_alone(spec, make):
    data = make(spec, seed=1)
    data.check()
    first = data[0, 2]
    assert data[3, 4]['name'] == 'train_00004'
    assert same(data[0, 2], first)
    assert same(make(spec, seed=1)[0, 2], first)
    for other in (data[1, 2], make(spec, seed=2)[0, 2]):
        assert other['name'] == first['name'] and not torch.equal(other['image'], first['image'])


@pytest.mark.parametrize('make', [cam_set, aff_set, seg_set])
def test_workers_change_nothing(spec, make):
    data = make(spec)
    runs = [list(DataLoader(data, batch_sampler=batch_keys(NUM, 2, 1, seed=0), num_workers=workers))
            for workers in (0, 2)]
    assert len(runs[0]) == 3 and all(same(first, second) for first, second in zip(*runs))


def test_cam_sample_has_the_documented_form(spec):
    sample = cam_set(spec)[0, 0]
    assert sample['image'].shape == (3, 64, 64) and sample['image'].dtype == torch.float32
    assert sample['image_labels'].dtype == torch.float32
    assert sample['image_labels'].tolist() == spec.image_labels(['train_00000'])[0].tolist()


def test_image_smaller_than_the_crop_is_padded(spec):
    cam = CamTrainSet(spec, 'train', IMAGENET_NORM, 160, (70, 90))[0, 0]['image']
    assert cam.shape == (3, 160, 160) and (cam == 0).all(0).float().mean() > 0.5
    seg = seg_set(spec, crop=256)[0, 0]
    assert seg['mask'].shape == (256, 256)
    padded = (seg['image'] == 0).all(0)
    assert padded.float().mean() > 0.2 and (seg['mask'][padded] == 255).all()
    aff = aff_set(spec, crop=256)[0, 0]
    assert aff['label'].shape == (32, 32) and (aff['label'] == 255).float().mean() > 0.5


@pytest.mark.parametrize('flipped', [False, True])
def test_affinity_label_stays_on_its_image(spec, flipped, monkeypatch):
    """Seeds that are bright in the image give labels where the image is bright, mirrored or not."""
    monkeypatch.setattr('lib.data.augment.random_flip', lambda rng: slice(None, None, -1 if flipped else 1))
    monkeypatch.setattr('lib.data.augment.colour_jitter', lambda image, rng: image)
    # Not black, which is what the crop is padded with.
    monkeypatch.setattr('lib.data.datasets.read_image', lambda path, **_: two_halves((128, 128, 3)).clip(40))
    monkeypatch.setattr('lib.data.affinity.read_seeds', lambda path, num_fg: (np.array([3]), two_seeds(128)))
    sample = aff_set(spec, crop=160)[0, 0]
    cells = sample['image'][0].reshape(20, 8, 20, 8).permute(0, 2, 1, 3).flatten(2)
    white, dark = normalise(np.array([[[255] * 3, [40] * 3]], np.uint8))[0, 0].tolist()
    assert (sample['label'][(cells == white).all(-1)] == 4).all() and (sample['label'] == 4).any()
    assert (sample['label'][(cells == dark).all(-1)] == 0).all() and (sample['label'] == 0).any()


def two_halves(shape):
    image = np.zeros(shape, np.uint8)
    image[:, :shape[1] // 2] = 255
    return image


def two_seeds(size):
    inside = two_halves((size, size)).astype(np.float32) / 255
    return {alpha: np.stack([1 - inside, inside]) for alpha in (1.0, 24.0)}


def test_segmentation_mask_stays_on_its_image(spec, monkeypatch):
    monkeypatch.setattr('lib.data.augment.hsv_shift', lambda image, rng: image)
    monkeypatch.setattr('lib.data.datasets.read_image', lambda path, **_: two_halves((128, 100, 3)))
    monkeypatch.setattr('lib.data.datasets.read_mask', lambda path, classes: two_halves((128, 100)) // 255 * 2)
    data = seg_set(spec, crop=96)
    for epoch in range(6):
        sample = data[epoch, 0]
        inside = sample['mask'] != 255
        bright = sample['image'][0] > 0
        assert ((sample['mask'] == 2) == bright)[inside].float().mean() > 0.97


def test_inference_sample_is_the_image_itself(spec):
    data = InferSet(spec, 'val', limit=1)
    data.check()
    assert len(data) == 1
    sample = data[0]
    assert sample['image'].dtype == np.uint8 and sample['image_labels'].dtype == np.float32
    np.testing.assert_array_equal(sample['image'], np.array(Image.open(spec.samples('val')[0].image)))
    assert 'image_labels' not in InferSet(spec, 'val', with_labels=False)[0]


def test_evaluation_pairs_predictions_with_masks(spec, tmp_path):
    pairs = label_pairs(spec, 'val', spec.root / 'walk')
    assert [sample.name for sample, _ in pairs] == [sample.name for sample in spec.samples('val')]
    for sample, prediction in pairs:
        np.testing.assert_array_equal(*(np.array(Image.open(path)) for path in (prediction, sample.mask)))
    with pytest.raises(FileNotFoundError, match=r'val lacks predictions: .*val_00000.npz \(and 1 more\); make them so'):
        label_pairs(spec, 'val', tmp_path, '.npz', remedy='make them so')


def test_limit_takes_the_first_images(spec):
    assert [len(make(spec, limit=4)) for make in (cam_set, aff_set, seg_set)] == [4, 4, 4]
    assert len(label_pairs(spec, 'val', spec.root / 'walk', limit=1)) == 1


def test_single_files_are_read_and_may_not_share_a_name(spec, tmp_path):
    files = [sample.image for sample in spec.samples('val')]
    data = FileSet(files)
    data.check()
    assert [data[i]['name'] for i in range(len(data))] == [path.stem for path in files]
    twins = [tmp_path / files[0].name, tmp_path / f'{files[0].stem}.png']
    for twin in twins:
        twin.write_bytes(files[0].read_bytes())
    below = FileSet([*files, twins[0]])
    below.check()
    assert len(set(below.names)) == len(files) + 1 and below.names[-1].endswith(f'{tmp_path.name}/{twins[0].stem}')
    with pytest.raises(ValueError, match='2 images would be written to'):
        FileSet(twins).check()


def test_truncated_image_is_found_before_training(spec):
    path = spec.samples('train')[1].image
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(ValueError, match=f'{path.name} is not a readable image .*; restore it'):
        cam_set(spec).check()
    path.write_bytes(whole + b'some bytes behind the end of the image')
    cam_set(spec).check()
    path.write_bytes(whole)


def test_missing_inputs_name_the_command_that_makes_them(spec):
    with pytest.raises(FileNotFoundError, match=r'train lacks seeds: .*train_00000.npz \(and 5 more\); '
                                                r'make them with python infer_cam.py --dataset \S+ --split train'):
        aff_set(spec, 'nowhere').check()
    with pytest.raises(FileNotFoundError, match='train lacks labels: .*; make them with python infer_aff.py'):
        seg_set(spec, 'nowhere').check()
    aff_set(spec, limit=2).check()


def test_labels_of_another_size_are_named_with_both_sizes(spec, tmp_path):
    for sample in spec.samples('train'):
        write_label_png(tmp_path / f'{sample.name}.png', np.zeros((50, 60), np.uint8))
        write_seeds(tmp_path / f'{sample.name}.npz', [], {1: np.ones((1, 50, 60)), 24: np.ones((1, 50, 60))})
    message = r'train_00000.{4} is 50x60 pixels \(height x width\), .*train_00000.jpg is \d+x\d+; make them with'
    for data in (seg_set(spec, tmp_path), aff_set(spec, tmp_path)):
        with pytest.raises(ValueError, match=message):
            data[0, 0]
    with pytest.raises(ValueError, match=message):
        seg_set(spec, tmp_path).check()


def test_seeds_of_one_strength_or_other_classes_are_refused(spec, tmp_path):
    size = np.array(Image.open(spec.samples('train')[0].image)).shape[:2]
    write_seeds(tmp_path / 'train_00000.npz', [1], {24: np.ones((2, *size))})
    with pytest.raises(ValueError, match='has seeds for 1 background strengths, not for 2; make them'):
        aff_set(spec, tmp_path)[0, 0]
    write_seeds(tmp_path / 'train_00000.npz', [9], {alpha: np.ones((2, *size)) for alpha in (1, 24)})
    with pytest.raises(ValueError, match='has class index 9, the data set has 6 classes'):
        aff_set(spec, tmp_path)[0, 0]
    with pytest.raises(ValueError, match='must be a multiple of 8; use 64'):
        aff_set(spec, crop=70)


def test_truncated_image_is_named_when_it_is_read(spec, tmp_path):
    write_set(tmp_path, seed=0, train=2, val=1)
    broken = get_spec('toy', root=tmp_path)
    path = broken.samples('train')[1].image
    path.write_bytes(path.read_bytes()[:2000])
    data = cam_set(broken)
    with pytest.raises(ValueError, match='train_00001.jpg is not a readable image'):
        data[0, 1]
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='train_00001.jpg is not a readable image'):
        data.check()


def test_batches_of_an_epoch_hold_every_image_once():
    batches = list(batch_keys(10, 3, epochs=4, seed=1))
    assert len(batches) == 12
    for epoch in range(4):
        keys = [key for batch in batches[3 * epoch:3 * epoch + 3] for key in batch]
        assert {key[0] for key in keys} == {epoch} and len({key[1] for key in keys}) == 9
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[3]]
    assert batches != list(batch_keys(10, 3, epochs=4, seed=2))


@pytest.mark.parametrize('start', [0, 1, 3, 7, 12])
def test_resumed_order_is_the_rest_of_the_whole_order(start):
    whole = list(batch_keys(10, 3, epochs=4, seed=1))
    assert list(batch_keys(10, 3, epochs=4, seed=1, start_step=start)) == whole[start:]


def test_batch_larger_than_the_set_is_refused(spec):
    with pytest.raises(ValueError, match=f'--batch-size 8 is larger than the {NUM} images of .*; use at most {NUM}'):
        training_batches(cam_set(spec), 8, 1, seed=0, workers=0)
