"""Unpacking, with archives as an attacker would write them."""
import io
import tarfile
import zipfile

import pytest

from lib.setup.archives import unpack

FILES = {'top/Images/1.jpg': b'one' * 1000, 'top/Images/2.jpg': b'two', 'top/labels/a.txt': b'', 'top/unused': b'no'}
PATTERN = r'top/(Images|labels)/(\w+\.\w+)', r'\1/\2'
UNPACKED = {'Images/1.jpg': b'one' * 1000, 'Images/2.jpg': b'two', 'labels/a.txt': b''}
KINDS = pytest.mark.parametrize('kind', ['.tar', '.tgz', '.zip'])


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


@KINDS
def test_matching_files_are_unpacked(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    assert unpack(archive, tmp_path / 'root', *PATTERN) == ['Images', 'labels']
    assert everything(tmp_path / 'root') == UNPACKED


@KINDS
def test_only_missing_and_short_files_are_written_again(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    unpack(archive, tmp_path / 'root', *PATTERN)
    before = (tmp_path / 'root/Images/2.jpg').stat().st_ino
    (tmp_path / 'root/Images/1.jpg').write_bytes(b'cut off')
    (tmp_path / 'root/labels/a.txt').unlink()
    assert unpack(archive, tmp_path / 'root', *PATTERN) == ['Images', 'labels']
    assert everything(tmp_path / 'root') == UNPACKED
    assert (tmp_path / 'root/Images/2.jpg').stat().st_ino == before


@KINDS
@pytest.mark.parametrize('name', ['../evil.jpg', 'top/../../evil.jpg', '/tmp/evil.jpg', '..\\evil.jpg', 'C:evil.jpg',
                                  'top/Images/../../../evil.jpg', 'top/Images/..\\evil.jpg', 'top/Images/a.jpg\n'])
def test_a_member_with_a_hostile_name_is_left_out(tmp_path, kind, name):
    archive = write(tmp_path / f'a{kind}', [(name, b'evil'), *FILES.items()])
    unpack(archive, tmp_path / 'root', *PATTERN)
    assert everything(tmp_path) == {f'root/{path}': content for path, content in UNPACKED.items()} | {
        archive.name: archive.read_bytes()}


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize('name', ['top/Images', 'top/Images/3.jpg'])
def test_links_and_devices_in_a_tar_are_left_out(tmp_path, kind, name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, '/etc'
    archive = write(tmp_path / 'a.tar', [(info, b''), *FILES.items()])
    unpack(archive, tmp_path / 'root', *PATTERN)
    assert everything(tmp_path / 'root') == UNPACKED and not (tmp_path / 'root/Images/3.jpg').exists()


def test_a_link_in_a_zip_is_unpacked_as_a_file(tmp_path):
    info = zipfile.ZipInfo('top/Images/3.jpg')
    info.external_attr = 0o120777 << 16
    archive = write(tmp_path / 'a.zip', [(info, '/etc'), *FILES.items()])
    unpack(archive, tmp_path / 'root', *PATTERN)
    assert everything(tmp_path / 'root') == UNPACKED | {'Images/3.jpg': b'/etc'}
    assert not (tmp_path / 'root/Images/3.jpg').is_symlink()


@KINDS
def test_a_corrupt_archive_is_named(tmp_path, kind):
    archive = write(tmp_path / f'a{kind}', FILES.items())
    content = archive.read_bytes()
    archive.write_bytes(content[:len(content) // 3 if kind != '.tar' else 2000])
    with pytest.raises(ValueError, match=f'a{kind} is corrupt .*; move it away, then run the same command again'):
        unpack(archive, tmp_path / 'root', *PATTERN)


def test_a_flipped_byte_in_a_zip_is_noticed_and_leaves_no_file(tmp_path):
    archive = write(tmp_path / 'a.zip', FILES.items())
    content = bytearray(archive.read_bytes())
    content[content.index(b'oneone') + 100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match='is corrupt .*Bad CRC-32'):
        unpack(archive, tmp_path / 'root', *PATTERN)
    assert everything(tmp_path / 'root') == {}


def test_an_archive_that_cannot_be_read_is_not_called_corrupt(tmp_path):
    for kind in ('tar', 'zip'):
        with pytest.raises(FileNotFoundError):
            unpack(tmp_path / f'a.{kind}', tmp_path, '(.*)')


def test_another_archive_is_recognised(tmp_path):
    archive = write(tmp_path / 'a.zip', [('readme', b'')])
    with pytest.raises(ValueError, match='contains none of the expected files'):
        unpack(archive, tmp_path / 'root', *PATTERN)
