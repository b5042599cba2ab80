"""Segmenting images of all kinds with nothing but the trained network's file."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

import infer_seg
from lib.data.files import find_images
from lib.net.weights import read_meta
from lib.process.ending import run_script
from tests.running import LOADED_HERE, SCALES, error_line
from tool.imutils import enlarged_label

QUICK = (*LOADED_HERE, *SCALES, '--device', 'cpu', '--amp', 'none')


@pytest.fixture
def photos(toy, tmp_path):
    """A folder of one image in many formats, and files that are not images."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    image = Image.open(toy.parent / 'images/val_00000.jpg')
    turn = Image.Exif()
    turn[0x0112] = 6
    image.save(folder / 'plain.png')
    image.save(folder / 'turned.jpg', exif=turn)
    image.convert('L').save(folder / 'grey.bmp')
    image.convert('RGBA').save(folder / 'alpha.webp')
    image.quantize(16).save(folder / 'few.gif')
    Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257).save(folder / 'deep.tif')
    image.resize((700, 650)).save(folder / 'large.JPG')
    image.resize((9, 7)).save(folder / 'tiny.png')
    (folder / 'labels.csv').write_text('image,labels')
    (folder / '._plain.png').write_text('what a Mac leaves on a stick')
    return folder


def predict(checkpoint, out, *words):
    infer_seg.main([*QUICK, '--checkpoint', str(checkpoint), '--out', str(out), *map(str, words)])


def size(path):
    with Image.open(path) as image:
        return image.size


def test_any_image_is_segmented_at_its_size_with_the_file_alone(run_folder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict(run_folder / 'seg/model.pth', tmp_path / 'out', '--images', photos, '--probs', '--export-voc', 'server')
    names = {path.stem: size(path) for path in photos.iterdir() if path.suffix != '.csv' and path.name[0] != '.'}
    names['turned'] = names['turned'][::-1]
    assert {path.stem: size(path) for path in (tmp_path / 'out').glob('*.png')} == names
    assert size(tmp_path / 'out/overlays/large.jpg')[0] == 700
    copy = tmp_path / 'server/results/VOC2012/Segmentation/comp6_test_cls/plain.png'
    assert copy.read_bytes() == (tmp_path / 'out/plain.png').read_bytes() and Image.open(copy).mode == 'P'
    with np.load(tmp_path / 'out/probs/plain.npz') as file:
        assert file['classes'].tolist() == ['background', *read_meta(run_folder / 'seg/model.pth')['classes']]
        assert np.allclose(file['probs'].astype(float).sum(0), 1, atol=0.01)
        label = np.asarray(Image.open(tmp_path / 'out/plain.png'))
        assert (file['probs'].argmax(0) == label).mean() > 0.99         # float16 makes ties of very close scores


def test_the_file_says_what_network_it_is_of(run_folder):
    meta = read_meta(run_folder / 'seg/model.pth')
    assert {'classes', 'backbone', 'width', 'fov_channels', 'dilation', 'norm', 'preset', 'max_side'} <= set(meta)
    assert meta['width'] == 0.03125 and meta['fov_channels'] == 8 and np.shape(meta['norm']) == (2, 3)


def test_a_run_is_named_instead_of_a_file(run_folder, photos, capsys):
    infer_seg.main([*QUICK, '--exp', str(run_folder.parent), '--run', 'toy', '--images', str(photos / 'p*.png'),
                    '--dry-run'])
    assert f'of 1 images to {run_folder}/results/images' in capsys.readouterr().out


def test_folders_and_patterns_name_images_once(photos):
    found = [path.name for path in find_images([str(photos / 'plain.png'), str(photos), str(photos / '*.png')])]
    assert found == ['plain.png', 'alpha.webp', 'deep.tif', 'few.gif', 'grey.bmp', 'large.JPG', 'tiny.png',
                     'turned.jpg']
    assert [path.name for path in find_images([str(photos.parent / '**/d*')])] == ['deep.tif']
    (photos / 'folder').mkdir()
    (photos / 'folder/a.mov').touch()
    for word, problem in (('folder', 'holds no image among 1 files'), ('no*.jpg', 'matches no file')):
        with pytest.raises(FileNotFoundError, match=problem):
            find_images([str(photos / word)])


def test_what_is_left_out_of_a_folder_is_named(photos, capsys):
    (photos / 'more').mkdir()
    find_images([str(photos)])
    assert 'skipped 2 subfolders and files that are not images: labels.csv, more/' in capsys.readouterr().out


def test_equal_names_in_different_folders_mirror_their_folders(run_folder, photos, tmp_path):
    for name in ('x', 'y/z'):
        (photos / name).mkdir(parents=True)
        (photos / name / 'plain.png').write_bytes((photos / 'tiny.png').read_bytes())
    images = [photos / 'x/plain.png', photos / 'y/z/plain.png']
    for _ in range(2):                      # the second run finds all of it
        predict(run_folder / 'seg/model.pth', tmp_path / 'out', '--images', *images, '--probs')
    assert sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.*g')) == [
        'overlays/x/plain.jpg', 'overlays/y/z/plain.jpg', 'x/plain.png', 'y/z/plain.png']
    (photos / 'x/plain.jpg').write_bytes((photos / 'large.JPG').read_bytes())
    with pytest.raises(ValueError, match='2 images would be written to x/plain.png'):
        predict(run_folder / 'seg/model.pth', tmp_path / 'out', '--images', *images, photos / 'x/plain.jpg')


@pytest.mark.parametrize('words, problem', [
    (('--images', 'photos'), 'photos/a.png is not a readable image'),
    (('--images', 'photos/none.jpg'), 'photos/none.jpg; check the names after --images'),
    (('--images', 'photos/plain.png', '--checkpoint', 'aff'),
     'aff/model.pth belongs to a different network'),
    (('--images', 'photos/plain.png', '--checkpoint', 'none'), 'none/model.pth is missing'),
    (('--images', 'photos/plain.png', '--checkpoint', 'text'), 'text/model.pth is corrupt or not a PyTorch file')])
def test_what_cannot_be_segmented_is_one_line_before_any_work(run_folder, photos, tmp_path, capsys, monkeypatch, words,
                                                              problem):
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b.jpg'):
        (photos / name).write_text('not an image')
    (tmp_path / 'text').mkdir()
    (tmp_path / 'text/model.pth').write_text('no weights')
    (tmp_path / 'aff').symlink_to(run_folder / 'aff')
    checkpoint = f'{words[-1]}/model.pth' if '--checkpoint' in words else run_folder / 'seg/model.pth'
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: predict(checkpoint, 'out', *words[:2]))
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and problem in lines[0], lines
    assert not (tmp_path / 'out').exists()


def test_an_enlarged_label_is_the_strongest_of_the_enlarged_scores():
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)).numpy()
    assert np.array_equal(enlarged_label(scores, 5, 6), scores.argmax(0))
    flat = np.stack([np.full((4, 4), 0.5, np.float32), np.repeat(np.eye(2, dtype=np.float32), 2, 0).repeat(2, 1)])
    label = enlarged_label(flat, 64, 64)
    assert label.shape == (64, 64) and label[8, 8] == 1 and label[8, 56] == 0 and 0.4 < label.mean() < 0.6


def test_meta_is_plain_json(run_folder):
    json.dumps(read_meta(run_folder / 'seg/model.pth'))


def test_results_are_never_written_over_the_images(run_folder, photos, capsys):
    before = {path: path.read_bytes() for path in photos.rglob('*') if path.is_file()}
    for words in ((), ('--fresh',), ('--fresh', '--limit', '1')):
        line = error_line(infer_seg.main, (*QUICK, '--checkpoint', run_folder / 'seg/model.pth', '--images', photos,
                                           '--out', photos, *words), capsys)
        assert f'{photos} is an input of this command' in line
    assert {path: path.read_bytes() for path in photos.rglob('*') if path.is_file()} == before
