"""The data set that --dataset names. This is the one file that knows VOC and COCO by name."""
from pathlib import Path

import coco.dataset
import voc12.dataset
from lib.data import folder
from lib.files.dataspec import DatasetSpec

TOY = Path('data/toy/dataset.json')


def get_spec(dataset: str, root: Path | None = None, lists: Path | None = None) -> DatasetSpec:
    """Describe a data set.

    Args:
        dataset: voc12, coco, toy, or the path of a dataset.json.
        root: folder of the images; None for the data set's own folder under data/.
        lists: folder of the split lists and labels.txt; None for the data set's own.

    Raises:
        ValueError, FileNotFoundError: if the name is unknown, or its dataset.json is not there.
    """
    folders = {key: Path(value) for key, value in (('root', root), ('lists', lists)) if value}
    if dataset == 'voc12':
        return voc12.dataset.spec(**folders)
    if dataset == 'coco':
        return coco.dataset.spec(**folders)
    if dataset == 'toy':
        path = folders.get('root', TOY.parent) / TOY.name
        if not path.exists():
            raise FileNotFoundError(f'{path} is not there; make the toy set with '
                                    f'python -m lib.data.toy --out {path.parent}')
        return folder.read_spec(path, lists=lists)
    if dataset.endswith('.json') or Path(dataset).is_dir():
        return folder.read_spec(Path(dataset), **folders)
    raise ValueError(f'--dataset {dataset} is unknown; use voc12, coco, toy or the path of a dataset.json')
