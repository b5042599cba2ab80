"""Fetching large files over HTTP: resumed where it broke off, tried again, and checked before it gets its name."""
import hashlib
import http
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib.process.progress import bar_style

BLOCK = 1024 * 1024
TIMEOUT = 60            # seconds without a byte
SHORT = 10              # the same for a question that can be left unanswered
LONGEST_PAUSE = 30      # seconds between two attempts
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


@dataclass(frozen=True)
class Archive:
    """A file to fetch.

    `urls` are the places that serve it, best first; none where it cannot be fetched without a person. `size` is about
    its bytes and `unpacked` about those of what is taken from it, both for the check of the disk. `md5` is given where
    one is published; a .zip carries a checksum of every file in it.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    unpacked: int
    md5: str | None = None


class Unreachable(OSError):
    """No place served the file."""


def fetch(archive: Archive, folder: Path, urls: Sequence[str], tries: int = 8) -> Path:
    """The whole and checked file in `folder`: the one that lies there, or one fetched.

    What has arrived lies in <name>.part until it is complete; the next call goes on from there.

    Args:
        archive: what to fetch.
        folder: where to look first and to put it.
        urls: places to try in turn.
        tries: rounds over all places, without a byte from any of them, until it gives up.

    Raises:
        Unreachable: if no place served it; says why for each.
        ValueError: if a file has the wrong checksum or is no archive; a fetched one is removed.
        OSError: if the disk is full; what has arrived stays.
    """
    path = folder / archive.name
    if path.exists():
        check_archive(path, archive, 'move it away, and the same command fetches it')
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{archive.name}.part'
    _fill(part, urls, tries)
    try:
        check_archive(part, archive, 'it was removed; run the same command again, or fetch it elsewhere and put it to '
                      f'{path}')
    except ValueError:
        part.unlink()
        raise
    with open(part, 'rb') as file:
        os.fsync(file.fileno())
    part.rename(path)
    return path


def size_of(archive: Archive, urls: Sequence[str]) -> int:
    """Bytes of an archive as the first place tells them; the size in the table where none does."""
    for url in urls:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=SHORT) as response:
                if response.headers['Content-Length']:
                    return int(response.headers['Content-Length'])
        except (*BROKEN, ValueError):
            continue
    return archive.size


def check_archive(path: Path, archive: Archive, remedy: str) -> None:
    """Make sure that a file has its checksum where one is known, and that a .zip is whole.

    Raises:
        ValueError: naming the file, what was found and expected, and the remedy.
    """
    if archive.md5:
        with open(path, 'rb') as file:
            found = hashlib.file_digest(file, 'md5').hexdigest()
        if found != archive.md5:
            raise ValueError(f'{path} has MD5 {found}, expected {archive.md5}; {remedy}')
    if archive.name.endswith('.zip') and not zipfile.is_zipfile(path):
        raise ValueError(f'{path} is no whole .zip archive; {remedy}')


def _fill(part: Path, urls: Sequence[str], tries: int) -> None:
    """Bring a .part to its full length."""
    places, reasons, fruitless = list(urls), {}, 0
    while places and fruitless < tries:
        before = _length(part)
        for url in list(places):
            try:
                _transfer(url, part)
                return
            except BROKEN as error:
                reasons[url] = _reason(error)
                if _final(error):
                    places.remove(url)
        fruitless = 0 if _length(part) > before else fruitless + 1
        if places and fruitless < tries:
            time.sleep(min(2 ** fruitless, LONGEST_PAUSE))
    raise Unreachable('; '.join(f'{url}: {reason}' for url, reason in reasons.items()) or 'no place serves it')


def _transfer(url: str, part: Path) -> None:
    """Append to a .part what it lacks.

    Raises:
        one of BROKEN: if the place does not serve it, or the connection broke; what arrived is kept.
    """
    have = _length(part)
    request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers['Content-Range'] == f'bytes */{have}':
            return                                      # all of it had arrived already
        part.unlink()                                   # longer than the file: it belongs to another one
        raise ConnectionError('what had been fetched does not belong to this file') from error
    with response, open(part, 'ab', buffering=0) as file:
        start, total = _extent(response)
        if start != have:                               # the place knows no ranges: from the beginning
            file.truncate(start)
        with tqdm(total=total, initial=start, unit_scale=True, **bar_style(part.stem, 'B')) as bar:
            while block := memoryview(response.read(BLOCK)):
                while block:                            # a write without a buffer may be a short one
                    written = file.write(block)
                    bar.update(written)
                    block = block[written:]
        if total is not None and file.tell() < total:
            raise ConnectionError(f'broke off at byte {file.tell()} of {total}')


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file if known) of an answer."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', response.headers['Content-Range'] or '')
        if not match:
            raise ConnectionError(f'answers with the range {response.headers["Content-Range"]!r}')
        return int(match[1]), int(match[2])
    length = response.headers['Content-Length']
    return 0, int(length) if length else None


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _final(error: Exception) -> bool:
    """Whether trying again is of no use: the place says that it has no such file, or not for us."""
    later = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in later


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'HTTP {error.code} {error.reason}'
    return str(getattr(error, 'reason', error)) or type(error).__name__
