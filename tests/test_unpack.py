"""Unpacking, with archives as an attacker would write them."""
import io
import tarfile
import zipfile

import pytest

from lib.setup.unpack import unpack

FILES = {'top/Images/1.jpg': b'one' * 1000, 'top/Images/2.jpg': b'two', 'top/labels/a.txt': b'', 'top/unused': b'no'}


def place(name):
    """The folder 'top' is left away, and 'unused' out."""
    return None if name.endswith('unused') else name.removeprefix('top/')


def write(path, members):
    """An archive of (name, bytes), or of tarfile.TarInfo and zipfile.ZipInfo as they are."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as file:
            for name, content in members:
                file.writestr(name, content)
    else:
        with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as file:
            for name, content in members:
                info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def everything(folder):
    """Names and contents of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


WANTED = {'Images/1.jpg': b'one' * 1000, 'Images/2.jpg': b'two', 'labels/a.txt': b''}
KINDS = pytest.mark.parametrize('kind', ['.tar', '.tgz', '.zip'])


@KINDS
def test_chosen_files_land_where_they_belong(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    assert unpack(archive, tmp_path / 'root', place) == {'Images': 2, 'labels': 1}
    assert everything(tmp_path / 'root') == WANTED


@KINDS
def test_only_what_is_missing_or_short_is_written_again(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    unpack(archive, tmp_path / 'root', place)
    before = (tmp_path / 'root/Images/2.jpg').stat().st_ino
    (tmp_path / 'root/Images/1.jpg').write_bytes(b'cut off')
    (tmp_path / 'root/labels/a.txt').unlink()
    assert unpack(archive, tmp_path / 'root', place) == {'Images': 2, 'labels': 1}
    assert everything(tmp_path / 'root') == WANTED
    assert (tmp_path / 'root/Images/2.jpg').stat().st_ino == before


@KINDS
@pytest.mark.parametrize('name', ['../evil', 'top/../../evil', '/tmp/evil', '..\\evil', 'C:evil'])
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path, kind, name):
    archive = write(tmp_path / f'a{kind}', [*FILES.items(), (name, b'evil')])
    with pytest.raises(ValueError, match='leads out of the folder; nothing of it was unpacked'):
        unpack(archive, tmp_path / 'root', place)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]
    write(archive, FILES.items())
    assert unpack(archive, tmp_path / 'root', place) == {'Images': 2, 'labels': 1}


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo('top/Images')
    info.type, info.linkname = kind, '/etc'
    archive = write(tmp_path / 'a.tar', [(info, b''), *FILES.items()])
    with pytest.raises(ValueError, match="holds 'top/Images', which is a link or a device"):
        unpack(archive, tmp_path / 'root', place)
    assert not (tmp_path / 'root').exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo('top/Images')
    info.external_attr = 0o120777 << 16
    archive = write(tmp_path / 'a.zip', [(info, '/etc'), *FILES.items()])
    with pytest.raises(ValueError, match='is a link or a device'):
        unpack(archive, tmp_path / 'root', place)
    assert not (tmp_path / 'root').exists()


@KINDS
def test_a_damaged_archive_is_named(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    content = archive.read_bytes()
    archive.write_bytes(content[:len(content) // 3])
    with pytest.raises(ValueError, match=f'a{kind} is corrupt .*; move it away, and the same command fetches it again'):
        unpack(archive, tmp_path / 'root', place)


def test_a_flipped_byte_in_a_zip_is_noticed_and_leaves_no_half_file(tmp_path):
    archive = write(tmp_path / 'a.zip', FILES.items())
    content = bytearray(archive.read_bytes())
    content[content.index(b'oneone') + 100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match='is corrupt .*Bad CRC-32'):
        unpack(archive, tmp_path / 'root', place)
    assert everything(tmp_path / 'root') == {}


def test_another_archive_is_recognised(tmp_path):
    archive = write(tmp_path / 'a.zip', [('readme', b'')])
    with pytest.raises(ValueError, match='has none of the files expected in it'):
        unpack(archive, tmp_path / 'root', lambda name: None)
