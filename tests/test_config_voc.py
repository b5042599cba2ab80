"""config_voc.sh on a small tree of VOC's layout, with SBD's masks in their own format."""
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lib.data.registry import get_spec
from lib.files.imageio import read_mask, voc_palette
from lib.setup.datasetup import Notes
from tests.running import error_lines
from tests.serving import serving
from voc12 import config
from voc12.config import AUG, SBD, TEST, TRAINVAL, main
from voc12.prepare import convert_mask

ROOT = Path(__file__).parent.parent
VAL, TRAIN, SBD_ONLY = ['2007_000033', '2007_000042'], ['2007_000032', '2007_000039'], ['2008_000002', '2008_000003']
SIZE = 12, 16


def own_mask(name):
    """VOC's mask of an image: a class with a void rim."""
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 3:12], mask[3:8, 4:11] = 255, 1 + int(name[-1]) % 5
    return mask


def sbd_mask(name):
    """SBD's: the class without a rim, and one column wider."""
    mask = np.zeros(SIZE, np.uint8)
    mask[3:8, 4:12] = 1 + int(name[-1]) % 5
    return mask


def png(mask):
    image, file = Image.fromarray(mask), io.BytesIO()
    image.putpalette(voc_palette().tobytes())
    image.save(file, format='PNG')
    return file.getvalue()


def jpeg():
    file = io.BytesIO()
    Image.new('RGB', SIZE[::-1], 'grey').save(file, format='JPEG')
    return file.getvalue()


def matrix(mask):
    """A .mat file as SBD's."""
    file = io.BytesIO()
    savemat(file, {'GTcls': {'Boundaries': np.zeros(1), 'Segmentation': mask, 'CategoriesPresent': [1]}},
            do_compression=True)
    return file.getvalue()


def tar(path, files):
    with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def sbd_files(only=SBD_ONLY):
    return {f'benchmark_RELEASE/dataset/cls/{name}.mat': matrix(sbd_mask(name)) for name in (*only, TRAIN[0])}


def write_archives(folder, only=SBD_ONLY):
    """Write the two archives that are fetched; `only` are images with a mask of SBD's alone."""
    folder.mkdir()
    top, names = 'VOCdevkit/VOC2012', (*TRAIN, *VAL, *only)
    xml = b'<annotation><object><name>cat</name></object></annotation>'
    files = {f'{top}/JPEGImages/{name}.jpg': jpeg() for name in names}
    files |= {f'{top}/Annotations/{name}.xml': xml for name in names}
    files |= {f'{top}/SegmentationClass/{name}.png': png(own_mask(name)) for name in (*TRAIN, *VAL)}
    files |= {f'{top}/SegmentationObject/{TRAIN[0]}.png': b'not wanted'}
    for split, members in (('train', TRAIN), ('val', VAL)):
        files[f'{top}/ImageSets/Segmentation/{split}.txt'] = ''.join(f'{name}\n' for name in members).encode()
    tar(folder / TRAINVAL.name, files)
    tar(folder / SBD.name, {'benchmark_RELEASE/README': b'', **sbd_files(only)})
    return folder


@pytest.fixture
def served(tmp_path):
    return write_archives(tmp_path / 'served')


def words(tmp_path, url, *more):
    places = ['--data-root', tmp_path / 'data', '--lists', tmp_path / 'lists', '--archives', tmp_path / 'archives']
    return [str(word) for word in (*places, '--mirror', url, '--part', '--workers', '0', '--tries', '1', *more)]


def test_the_command_sets_everything_up_and_the_second_call_does_nothing(served, tmp_path):
    with serving(served) as server:
        command = [ROOT / 'config_voc.sh', *words(tmp_path, server.url)]
        environment = {**os.environ, 'PYTHON': sys.executable}
        first, second = (subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/')
                         for _ in range(2))
        assert sum(server.asked.values()) == 2
    assert first.returncode == 0 and 'verified: 6 images and 6 masks' in first.stdout, first.stderr
    assert second.returncode == 0 and 'nothing to do' in second.stdout and not second.stderr
    spec = get_spec('voc12', tmp_path / 'data', tmp_path / 'lists')
    assert [sample.name for sample in spec.samples('train_aug')] == [*TRAIN, *SBD_ONLY]
    for split in ('train_aug', 'val'):
        for sample in spec.samples(split):
            expected = sbd_mask(sample.name) if sample.name in SBD_ONLY else own_mask(sample.name)
            np.testing.assert_array_equal(read_mask(sample.mask, spec.num_classes), expected)
            assert sample.mask.parent.name == 'SegmentationClassAug'
    assert not (tmp_path / 'data/SegmentationObject').exists()


def test_masks_and_test_images_that_lie_in_the_folder_are_taken(served, tmp_path, capsys):
    (tmp_path / 'archives').mkdir()
    with zipfile.ZipFile(tmp_path / 'archives' / AUG.name, 'w') as file:
        for name in (*TRAIN, *VAL, *SBD_ONLY):
            file.writestr(f'SegmentationClassAug/{name}.png', png(sbd_mask(name)))
        file.writestr('__MACOSX/SegmentationClassAug/._2007_000032.png', b'')
    top = 'VOCdevkit/VOC2012'
    tar(tmp_path / 'archives' / TEST.name, {f'{top}/JPEGImages/2008_000006.jpg': jpeg(),
                                            f'{top}/ImageSets/Segmentation/test.txt': b'2008_000006\n'})
    with serving(served) as server:
        main(words(tmp_path, server.url))
        assert dict(server.asked) == {TRAINVAL.name: 1}
        assert 'verified: 7 images and 6 masks' in capsys.readouterr().out
        main(words(tmp_path, server.url))
        assert 'nothing to do' in capsys.readouterr().out
    mask = read_mask(tmp_path / f'data/SegmentationClassAug/{VAL[0]}.png', 7)
    np.testing.assert_array_equal(mask, sbd_mask(VAL[0]))


def test_the_published_checksum_is_asked_for_and_the_same_command_goes_on(served, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(config, 'TRAINVAL', TRAINVAL._replace(urls=()))
    with serving(served) as server:
        whole = [word for word in words(tmp_path, server.url) if word != '--part']
        error = error_lines(main, whole, capsys)[-1]
        assert f'expected {TRAINVAL.md5}; it was removed: run the same command again' in error
        assert not (tmp_path / 'archives' / TRAINVAL.name).exists()
        main(words(tmp_path, server.url))


@pytest.mark.parametrize('change, message', [
    ({'benchmark_RELEASE/dataset/cls/2008_000003.mat': b'no matrix'}, '2008_000003.mat is not a mask of SBD'),
    (None, 'contains none of the expected files'),
])
def test_a_bad_archive_of_masks_is_named_and_a_good_one_goes_on(served, tmp_path, capsys, change, message):
    good = (served / SBD.name).read_bytes()
    tar(served / SBD.name, {'readme': b''} if change is None else sbd_files() | change)
    with serving(served) as server:
        error = error_lines(main, words(tmp_path, server.url), capsys)[-1]
        assert re.search(message, error), error
        (served / SBD.name).write_bytes(good)
        (tmp_path / 'archives' / SBD.name).unlink()
        (tmp_path / 'data/SBD/2008_000003.mat').unlink(missing_ok=True)
        main(words(tmp_path, server.url))


def test_a_cut_archive_of_masks_is_named(served, tmp_path, capsys):
    (tmp_path / 'archives').mkdir()
    content = (served / SBD.name).read_bytes()
    (tmp_path / 'archives' / SBD.name).write_bytes(content[:len(content) // 2])
    with serving(served) as server:
        assert 'benchmark.tgz is corrupt' in error_lines(main, words(tmp_path, server.url), capsys)[-1]
        (tmp_path / 'archives' / SBD.name).unlink()
        main(words(tmp_path, server.url))


def test_a_matrix_with_other_values_is_refused(tmp_path):
    path = tmp_path / 'a.mat'
    path.write_bytes(matrix(sbd_mask('2008_000002')))
    convert_mask(path, tmp_path)
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.png', 7), sbd_mask('2008_000002'))
    path.write_bytes(matrix(np.full(SIZE, 99, np.uint8)))
    with pytest.raises(ValueError, match='a.mat is not a mask of SBD .* values up to 99'):
        convert_mask(path, tmp_path)


def test_deleted_files_are_made_again(served, tmp_path, capsys):
    """An image comes from the archive again, a mask from what is unpacked."""
    with serving(served) as server:
        main(words(tmp_path, server.url))
        files = [tmp_path / 'data' / name for name in (f'JPEGImages/{VAL[0]}.jpg', f'SegmentationClassAug/{VAL[0]}.png',
                                                       f'SegmentationClassAug/{SBD_ONLY[0]}.png')]
        contents = [path.read_bytes() for path in files]
        for path in files:
            path.unlink()
        (tmp_path / 'archives' / SBD.name).unlink()
        main(words(tmp_path, server.url))
        assert server.asked == {TRAINVAL.name: 1, SBD.name: 1} and 'verified' in capsys.readouterr().out
    assert [path.read_bytes() for path in files] == contents


def test_masks_of_two_sources_are_not_mixed(served, tmp_path):
    """An archive of masks that is found later is left alone."""
    with serving(served) as server:
        main(words(tmp_path, server.url))
        with zipfile.ZipFile(tmp_path / 'archives' / AUG.name, 'w') as file:
            file.writestr(f'SegmentationClassAug/{SBD_ONLY[0]}.png', png(own_mask(SBD_ONLY[0])))
        path = tmp_path / f'data/SegmentationClassAug/{SBD_ONLY[0]}.png'
        path.unlink()
        main(words(tmp_path, server.url))
    np.testing.assert_array_equal(read_mask(path, 7), sbd_mask(SBD_ONLY[0]))


def test_nobody_there_names_both_archives(tmp_path, capsys, monkeypatch):
    for name in ('TRAINVAL', 'SBD'):
        archive = getattr(config, name)
        monkeypatch.setattr(config, name, archive._replace(urls=(f'http://127.0.0.1:9/{archive.name}',)))
    error = error_lines(main, words(tmp_path, 'http://127.0.0.1:9'), capsys)[-1]
    assert f'download http://127.0.0.1:9/{TRAINVAL.name}, http://127.0.0.1:9/{SBD.name} elsewhere, put it into' in error
    assert f'{tmp_path}/archives, then run the same command again' in error


@pytest.mark.parametrize('content', ['', '[]', '3', '{"a.tar": 3}', '{"archives": {"a.tar": {"f": 1}}}',
                                     '{"x": {"f": "1"}}'])
def test_a_setup_json_of_another_shape_is_named(tmp_path, content):
    (tmp_path / 'setup.json').write_text(content)
    with pytest.raises(ValueError, match=r'setup\.json(:| is not valid JSON).*; delete it'):
        Notes(tmp_path)
