"""CAM and seed files: what is written comes back, and nothing else is believed."""
import numpy as np
import pytest

from benchmarks.real_looking import photo_like, real_looking_labels
from lib.data.labelio import INTERVALS, read_maps, read_seeds, write_maps, write_seeds
from tool.affutils import affinity_label
from tool.camutils import cam_label
from tool.evalutils import THRESHOLDS, Curve

STEP = 1 / INTERVALS


def test_maps_come_back(tmp_path):
    maps = np.random.default_rng(0).random((2, 7, 5)).astype(np.float32)
    maps[0, 0, :2] = 0, 1
    write_maps(tmp_path / 'new' / 'a.npz', [2, 14], maps)
    keys, found = read_maps(tmp_path / 'new' / 'a.npz')
    assert keys.tolist() == [2, 14] and found.dtype == np.float32
    np.testing.assert_allclose(found, maps, atol=STEP)
    assert found[0, 0, 0] == 0 and found[0, 0, 1] == 1
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['a.npz']


def test_seeds_come_back(tmp_path):
    rng = np.random.default_rng(1)
    scores = {alpha: rng.random((3, 4, 6)).astype(np.float32) for alpha in (1.0, 24.0)}
    write_seeds(tmp_path / 'a.npz', [0, 3], scores)
    keys, found = read_seeds(tmp_path / 'a.npz')
    assert keys.tolist() == [0, 3] and list(found) == [1.0, 24.0]
    for alpha in scores:
        np.testing.assert_allclose(found[alpha], scores[alpha], atol=STEP)


def test_seeds_that_sum_to_one_come_back_with_their_background(tmp_path):
    scores = np.random.default_rng(2).dirichlet([0.3] * 4, (5, 6)).transpose(2, 0, 1).astype(np.float32)
    write_seeds(tmp_path / 'a.npz', [0, 3, 4], {24.0: scores})
    found = read_seeds(tmp_path / 'a.npz')[1][24.0]
    np.testing.assert_allclose(found[1:], scores[1:], atol=STEP)
    np.testing.assert_allclose(found[0], scores[0], atol=3 * STEP)
    assert found.min() >= 0


def test_labels_of_maps_at_every_threshold_of_the_evaluation_come_back_exactly(tmp_path):
    ends = THRESHOLDS.astype(np.float32)
    rng = np.random.default_rng(3)
    values = np.concatenate([ends, np.nextafter(ends, np.float32(1)), np.nextafter(ends[1:], np.float32(0)),
                             rng.random(1000, np.float32)])
    maps = np.clip(values + rng.integers(-1, 2, (3, 1, len(values))) * np.float32(1e-3), 0, 1)
    write_maps(tmp_path / 'a.npz', [0, 4, 9], maps)
    found = read_maps(tmp_path / 'a.npz')[1]
    np.testing.assert_allclose(found, maps, atol=2 * STEP)
    for threshold in ends:
        assert np.array_equal(cam_label([0, 4, 9], found, threshold), cam_label([0, 4, 9], maps, threshold))


def test_affinity_labels_from_files_are_those_from_float32(tmp_path):
    for seed in range(3):
        keys, _, seeds = real_looking_labels(seed, 150, 200)
        write_seeds(tmp_path / 'a.npz', keys, seeds)
        found = read_seeds(tmp_path / 'a.npz')[1]
        same = [affinity_label(seeds[1.0][:, y:, x:], seeds[24.0][:, y:, x:])
                == affinity_label(found[1.0][:, y:, x:], found[24.0][:, y:, x:]) for y in range(8) for x in range(8)]
        assert np.concatenate([part.ravel() for part in same]).mean() >= 0.999


def test_the_curve_from_files_is_that_from_float32(tmp_path):
    plain, stored = Curve(4), Curve(4)
    for seed in range(3):
        mask = photo_like(seed, 150, 200)[1]
        keys, cam, _ = real_looking_labels(seed, 150, 200, alphas=())
        write_maps(tmp_path / 'a.npz', keys, cam)
        plain.add(mask, keys, cam)
        stored.add(mask, *read_maps(tmp_path / 'a.npz'))
    assert np.array_equal(plain.iou(), stored.iou()) and plain.summary()['best_miou'] > 50


def test_files_are_a_25th_of_float32_arrays(tmp_path):
    keys, cam, seeds = real_looking_labels(0, 375, 500)
    write_maps(tmp_path / 'cam.npz', keys, cam)
    write_seeds(tmp_path / 'seeds.npz', keys, seeds)
    stored = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 4 * (cam.size + sum(scores.size for scores in seeds.values())) > 25 * stored


def test_files_of_version_1_are_read(tmp_path):
    rng = np.random.default_rng(4)
    maps, scores = rng.random((1, 4, 6)).astype(np.float16), rng.random((2, 2, 4, 6)).astype(np.float16)
    np.savez_compressed(tmp_path / 'a.npz', maps_version=1, keys=np.array([5], np.int16), maps=maps)
    np.savez_compressed(tmp_path / 'b.npz', seeds_version=1, keys=np.array([5], np.int16),
                        alphas=np.array([1.0, 24.0]), scores=scores)
    assert np.array_equal(read_maps(tmp_path / 'a.npz')[1], maps.astype(np.float32))
    for alpha, part in zip((1.0, 24.0), scores):
        assert np.array_equal(read_seeds(tmp_path / 'b.npz')[1][alpha], part.astype(np.float32))


def test_image_without_a_class_keeps_its_size(tmp_path):
    write_maps(tmp_path / 'a.npz', [], np.zeros((0, 4, 6), np.float32))
    assert read_maps(tmp_path / 'a.npz')[1].shape == (0, 4, 6)
    write_seeds(tmp_path / 'b.npz', [], {1: np.ones((1, 4, 6))})
    assert (read_seeds(tmp_path / 'b.npz')[1][1] == 1).all()


def test_missing_file_names_the_command(tmp_path):
    for read in (read_maps, read_seeds):
        with pytest.raises(FileNotFoundError, match=r'gone\.npz is missing.*infer_cam\.py'):
            read(tmp_path / 'gone.npz')


def corrupt(path, kind):
    """A file that is not what it should be."""
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('not a map')
    elif kind == 'cut':
        write_maps(path, [1], np.random.default_rng(0).random((1, 40, 40)))
        path.write_bytes(path.read_bytes()[:-900])
    elif kind == 'flipped':
        write_maps(path, [1], np.random.default_rng(0).random((1, 40, 40)))
        data = bytearray(path.read_bytes())
        data[-700] ^= 255
        path.write_bytes(data)
    elif kind == 'foreign':
        np.savez(path, other=np.zeros(3))
    elif kind == 'plain array':
        with open(path, 'wb') as file:
            np.save(file, np.zeros(3))
    elif kind == 'pickled':
        np.savez(path, maps_version=1, seeds_version=1, keys=np.array([{1: 2}]), maps=np.array([object]),
                 alphas=np.array([None]), scores=np.array([None]))
    elif kind == 'pickled array':
        with open(path, 'wb') as file:
            np.save(file, np.array({1: np.zeros(3)}))
    elif kind == 'version':
        np.savez(path, maps_version=99, seeds_version=99, keys=0, maps=0, alphas=0, scores=0)
    elif kind == 'shapes':
        np.savez(path, maps_version=1, seeds_version=1, keys=np.zeros(2), maps=np.zeros((1, 3, 3)), alphas=np.zeros(1),
                 scores=np.zeros((1, 2, 3, 3)))


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut', 'flipped', 'foreign', 'plain array', 'pickled',
                                  'pickled array', 'version', 'shapes'])
@pytest.mark.parametrize('read', [read_maps, read_seeds])
def test_corrupt_or_foreign_file_gives_one_line_with_name_and_remedy(tmp_path, kind, read):
    path = tmp_path / 'a.npz'
    corrupt(path, kind)
    with pytest.raises(ValueError, match=r'a\.npz.*infer_cam\.py') as error:
        read(path)
    assert '\n' not in str(error.value)


def test_cam_file_is_no_seed_file(tmp_path):
    write_maps(tmp_path / 'a.npz', [1], np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match='not a seed file'):
        read_seeds(tmp_path / 'a.npz')


@pytest.mark.parametrize('keys, value', [([3, 1], 0.5), ([1, 1], 0.5), ([1], 0.5), ([-1, 2], 0.5), ([1, 2], 1.1),
                                         ([1, 2], -0.1), ([1, 2], np.nan)])
def test_wrong_keys_or_values_are_refused_and_leave_no_file(tmp_path, keys, value):
    with pytest.raises(ValueError, match=r'a\.npz'):
        write_maps(tmp_path / 'a.npz', keys, np.full((2, 3, 3), value, np.float32))
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_maps(tmp_path / 'a.npz', [1], np.zeros((1, 2, 2)))
    before = (tmp_path / 'a.npz').read_bytes()

    def full_disk(file, array, **_):
        file.write(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(np.lib.format, 'write_array', full_disk)
    with pytest.raises(OSError):
        write_maps(tmp_path / 'a.npz', [2], np.ones((1, 2, 2)))
    assert (tmp_path / 'a.npz').read_bytes() == before and len(list(tmp_path.iterdir())) == 1
