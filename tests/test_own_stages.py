"""All stages on a set whose images have equal names in different folders: outputs mirror the folders."""
import numpy as np
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
import train_seg
from lib import choose, recommend
from lib.files.imageio import write_label_png
from lib.own import __main__ as own
from lib.report import __main__ as report
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, place


def test_images_of_equal_names_go_through_all_stages(tmp_path):
    for split in ('train', 'val'):
        for label, colour in (('wren', (200, 30, 30)), ('kite', (30, 30, 200))):
            for name in ('ab' if split == 'train' else 'a'):
                path = tmp_path / f'photos/{split}/{label}/{name}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new('RGB', (48, 40), colour).save(path)
                mask = np.full((40, 48), 1 + (label == 'wren'), np.uint8)
                write_label_png(tmp_path / f'masks/{split}/{label}/{name}.png', mask)
    own.main([str(tmp_path / 'photos'), '--masks', str(tmp_path / 'masks'), '--out', str(tmp_path / 'my.json')])
    common = (*place(tmp_path / 'my.json', tmp_path / 'exp', 'my'), *LOADED_HERE)
    trained = ('--weights', 'none')
    train_cam_voc.main([*common, *CAM_TRAINING, *trained])
    choose.main([*common, *NETWORK, *SCALES])
    for split in ('val', 'train'):
        infer_cam.main([*common, *NETWORK, *SCALES, '--split', split])
    train_aff.main([*common, *TRAINING, *trained])
    for split in ('val', 'train'):
        infer_aff.main([*common, *NETWORK, '--split', split])
    train_seg.main([*common, *TRAINING, *HEAD, *trained])
    for split in ('val', 'train'):
        infer_seg.main([*common, *NETWORK, *HEAD, *SCALES, '--split', split])
    recommend.main([*common, *NETWORK])
    for what in ('cam', 'walk', 'seg'):
        evaluation.main([*common, '--what', what, '--split', 'val'])
    report.main([*common, '--count', '2'])

    # A file per image in every folder of outputs, and none of another name.
    names = [f'val/{label}/{name}' for label in ('kite', 'wren') for name in 'a']
    for folder, suffix in (('labels/val/cam', '.npz'), ('labels/val/walk', '.png'), ('results/val', '.png')):
        made = tmp_path / 'exp/my' / folder
        assert sorted(str(path.relative_to(made)) for path in made.rglob(f'*{suffix}')) == [n + suffix for n in names]
