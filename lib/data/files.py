"""Images outside any data set, given as files, folders or patterns."""
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from lib.data.checks import check_images
from lib.files.dataspec import shortened
from lib.files.imageio import IMAGE_SUFFIXES, corrupt_images, read_image, read_size
from lib.process.ranks import print_rank0


def find_images(words: Sequence[str]) -> list[Path]:
    """The files, each once and in order, of files, folders (their images, without subfolders) and patterns with *, ? or
    ** (subfolders too). Prints what is skipped in a folder; FileNotFoundError if a word matches nothing.
    """
    images = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if not file.name.startswith('.'))
            matches = [file for file in files if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES]
            others = [file.name + '/' * file.is_dir() for file in files if file not in matches]
            problem = f'{path} holds no image among {len(files)} files; expected {" ".join(IMAGE_SUFFIXES)}'
            if others and matches:
                print_rank0(f'{path}: skipped {len(others)} subfolders and files that are not images: '
                            f'{shortened(others)}')
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

    Images whose long side exceeds max_side are reduced to it. `names` are those of the results: of the files without
    their endings; if some are equal, with their folders below the one that holds them all. With on_corrupt = 'skip'
    images that cannot be decoded are skipped.
    """

    def __init__(self, files: Sequence[Path], max_side: int | None = None, on_corrupt: str = 'error'):
        names = [path.stem for path in files]
        if len(set(names)) < len(names):
            base = os.path.commonpath([path.resolve().parent for path in files])
            names = [path.resolve().relative_to(base).with_suffix('').as_posix() for path in files]
        corrupt, self.max_side = corrupt_images(tuple(files)) if on_corrupt == 'skip' else (), max_side
        self.left_out = [name for path, name in zip(files, names) if path in corrupt]
        self.paths, self.names = map(list, zip(*((path, name) for path, name in zip(files, names)
                                                 if path not in corrupt)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        path = self.paths[index]
        return {'image': read_image(path, True, self.max_side), 'name': self.names[index], 'path': path,
                'size': read_size(path, True)}

    def check(self) -> None:
        """Check that all images are intact and their results have different names; errors as check_images."""
        check_images('--images', self.paths, self.left_out, 'check the names after --images')
        name, times = Counter(self.names).most_common(1)[0]
        if times > 1:
            raise ValueError(f'{times} images would be written to {name}.png, {self.paths[self.names.index(name)]} the '
                             'first; process them separately with different --out')
