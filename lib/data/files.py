"""Images that belong to no data set: named one by one, by folder or by pattern."""
import glob
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from lib.files.dataspec import check_files
from lib.files.imageio import Corrupt, check_intact, read_image, read_size

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


def find_images(words: Sequence[str]) -> list[Path]:
    """Expand files, folders (their images, without subfolders) and patterns with *, ? or ** (subfolders too).

    Returns:
        The files in order, each once.

    Raises:
        FileNotFoundError: if a folder holds no image or a pattern matches no file.
    """
    images = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith('.'))
            matches = [file for file in files if file.suffix.lower() in SUFFIXES]
            problem = f'{path} holds no image among {len(files)} files; expected {" ".join(SUFFIXES)}'
        elif glob.has_magic(word) and not path.exists():
            matches = [Path(file) for file in sorted(glob.glob(word, recursive=True)) if Path(file).is_file()]
            problem = f'{word} matches no file; check the pattern after --images'
        else:
            matches = [path]
        if not matches:
            raise FileNotFoundError(problem)
        images.update(dict.fromkeys(matches))
    return list(images)


class FileSet(Dataset):
    """{'image': uint8 [H, W, 3] upright, 'name', 'path', 'size': (height, width) of the file} of single images.

    Images whose long side exceeds max_side are reduced to it.
    """

    def __init__(self, files: Sequence[Path], max_side: int | None = None, on_corrupt: str = 'error'):
        self.paths, self.max_side, self.on_corrupt = list(files), max_side, on_corrupt

    @property
    def names(self) -> list[str]:
        """Names of the results."""
        return [path.stem for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        path = self.paths[index]
        return {'image': read_image(path, True, self.max_side), 'name': path.stem, 'path': path,
                'size': read_size(path, True)}

    def check(self) -> None:
        """Check that all images exist and can be read (one is enough where on_corrupt is 'skip') under different names.

        Raises:
            FileNotFoundError, ValueError: naming the files.
        """
        check_files(self.paths, 'some images do not exist', 'check the names after --images')
        corrupt, seen = [], {}
        for path in self.paths:
            try:
                check_intact(path)
            except Corrupt:
                corrupt.append(str(path))
            if (other := seen.setdefault(path.stem, path)) != path:
                raise ValueError(f'{path} and {other} would both be written to {path.stem}.png; process them '
                                 'separately with different --out')
        if corrupt and (self.on_corrupt == 'error' or len(corrupt) == len(self.paths)):
            raise ValueError(f'{len(corrupt)} of {len(self.paths)} files cannot be read as images: '
                             f'{", ".join(corrupt)}; remove them, name the others, or leave them out with '
                             '--on-corrupt skip')
