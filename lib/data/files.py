"""Pictures that belong to no data set: named one by one, by folder or by pattern."""
import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from lib.files.dataspec import check_files
from lib.files.imageio import Corrupt, check_whole, read_image, read_size

ENDINGS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


def find_pictures(words: Sequence[str]) -> list[Path]:
    """The files that are meant, in order and each once.

    Args:
        words: files; folders, of which all files with the ending of a picture are taken, but not their subfolders;
            patterns with *, ? or ** (subfolders too).

    Raises:
        FileNotFoundError: if a folder holds no picture or a pattern fits no file.
    """
    found = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith('.'))
            pictures = [file for file in files if file.suffix.lower() in ENDINGS]
            if not pictures:
                others = ', '.join(f'{count} {ending or "without ending"}' for ending, count in
                                   Counter(file.suffix for file in files).most_common(3))
                raise FileNotFoundError(f'{path} holds no picture ({others or "no file at all"}); expected files that '
                                        f'end in {" ".join(ENDINGS)}')
        elif glob.has_magic(word) and not path.exists():
            pictures = [Path(file) for file in sorted(glob.glob(word, recursive=True)) if Path(file).is_file()]
            if not pictures:
                raise FileNotFoundError(f'{word} fits no file; check the pattern after --images')
        else:
            pictures = [path]
        found.update(dict.fromkeys(pictures))
    return list(found)


class FileSet(Dataset):
    """{'image': uint8 [H, W, 3] upright, 'name', 'size': (height, width) of the file} of single pictures.

    Pictures whose long side exceeds max_side are reduced to it.
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
        return {'image': read_image(path, True, self.max_side), 'name': path.stem, 'size': read_size(path, True)}

    def check(self) -> None:
        """Make sure that all images are there and whole, and that no two would be written to one file.

        Where corrupt ones are left out, one that can be read is enough.

        Raises:
            FileNotFoundError: if one is not there.
            ValueError: naming all that cannot be read, or two of one name.
        """
        check_files(self.paths, 'some pictures are not there', 'check the names after --images')
        unreadable, seen = [], {}
        for path in self.paths:
            try:
                check_whole(path)
            except Corrupt:
                unreadable.append(str(path))
            if path.stem in seen:
                raise ValueError(f'{path} and {seen[path.stem]} would both be written to {path.stem}.png; '
                                 'give them one after another with different --out')
            seen[path.stem] = path
        if unreadable and (self.on_corrupt == 'error' or len(unreadable) == len(self.paths)):
            raise ValueError(f'{len(unreadable)} of {len(self.paths)} files cannot be read as pictures: '
                             f'{", ".join(unreadable)}; remove them, name the others, or leave them out with '
                             '--on-corrupt skip')
