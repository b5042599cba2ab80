"""Archives: downloaded over HTTP, resumed, retried and checked; unpacked to paths that the archive cannot choose."""
import gzip
import hashlib
import http.client
import lzma
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lib.files.fileio import replacing
from lib.process.cli import bar_style, progress

CORRUPT = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
           NotImplementedError)
BLOCK = 1024 * 1024
TIMEOUT = 60            # seconds without a byte
LONGEST_PAUSE = 10      # seconds between two attempts
FAILED = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def fetch(path: Path, urls: Sequence[str], md5: str | None = None, tries: int = 8) -> None:
    """Download a file unless it exists, and check it: `md5` is its checksum, if one is published.

    The urls are tried in turn, all of them `tries` times. What has arrived is in <name>.part until it is complete; the
    next call resumes there. Raises ConnectionError with the reason of each server, or ValueError if the file has the
    wrong checksum or is not an archive; a downloaded one is removed. A .zip has checksums that unpacking checks.
    """
    file, remedy, problem = path, 'move it away', ''
    if not path.exists():
        file, remedy = path.with_name(f'{path.name}.part'), 'it was removed'
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(file, urls, tries)
    if md5:
        with open(file, 'rb') as opened:
            found = hashlib.file_digest(opened, 'md5').hexdigest()
        problem = '' if found == md5 else f'has MD5 {found}, expected {md5}'
    elif path.suffix == '.zip' and not zipfile.is_zipfile(file):
        problem = 'is not a complete .zip archive'
    if problem:
        if file != path:
            file.unlink()
        raise ValueError(f'{file} {problem}; {remedy}: run the same command again, or download it elsewhere and put it '
                         f'at {path}')
    file.rename(path)


def _download(part: Path, urls: Sequence[str], tries: int) -> None:
    """Complete a .part file from the first server that sends it."""
    reasons = {}
    for attempt in range(tries if urls else 0):
        time.sleep(min(2 ** attempt, LONGEST_PAUSE) if attempt else 0)
        for url in urls:
            try:
                return _transfer(url, part)
            except FAILED as error:
                if getattr(error, 'code', None) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return                      # nothing is left to send; the checksum decides
                reasons[url] = str(error) or type(error).__name__
    raise ConnectionError('; '.join(f'{url}: {reason}' for url, reason in reasons.items()) or 'no server is known')


def _transfer(url: str, part: Path) -> None:
    """Append to a .part file what it lacks, or start over if the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = start + (response.length or 0)
        with (open(part, 'ab' if start else 'wb') as file,
              tqdm(total=total, initial=start, unit_scale=True, **bar_style(part.stem, 'B')) as bar):
            while block := response.read(BLOCK):
                bar.update(file.write(block))
    if part.stat().st_size < total:
        raise ConnectionError(f'connection lost at byte {part.stat().st_size} of {total}')


def unpack(archive: Path, root: Path, pattern: str, target: str = r'\1') -> list[str]:
    """Unpack some files of a .tar, .tgz or .zip to `root`; a file that exists with its full size is left alone.

    `pattern` is a regular expression of the full names of the members to unpack, whose groups must not match '..';
    `target` is their path below root, with references to the groups. Returns the folders of the files below root.
    """
    folders, zipped = set(), archive.suffix == '.zip'
    try:
        with zipfile.ZipFile(archive) if zipped else tarfile.open(archive, 'r|*') as file:
            for info in progress(file.infolist() if zipped else file, archive.name, 'file'):
                name, size = (info.filename, info.file_size) if zipped else (info.name, info.size)
                match = re.fullmatch(pattern, name) if zipped or info.isreg() else None     # no links, no devices
                if match:
                    path = root / match.expand(target)
                    folders.add(path.parent)
                    if not (path.is_file() and path.stat().st_size == size):
                        with (replacing(path) as temporary, open(temporary, 'wb') as unpacked,
                              file.open(info) if zipped else file.extractfile(info) as source):
                            shutil.copyfileobj(source, unpacked)
    except CORRUPT as error:
        raise ValueError(f'{archive} is corrupt ({type(error).__name__}: {error}); move it away, then run the same '
                         'command again') from error
    if not folders:
        raise ValueError(f'{archive} contains none of the expected files; is it the right archive?')
    return sorted(str(folder.relative_to(root)) for folder in folders)
