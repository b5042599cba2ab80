"""The backbone that the demo starts from, and the scores that it says to expect."""
import hashlib
import json
from pathlib import Path

import pytest

from lib.data.toy_draw import draw
from lib.net.backbone import make_backbone
from lib.net.freeze import norm_layers
from lib.net.weights import load_imagenet, read_network
from lib.run.expected import BACKBONE, EXPECTED, RANGE, comparison_text
from lib.run.settings import COMMON
from tests.running import score_record

ROOT = Path(__file__).parent.parent


def text_of(folder, **changes):
    """What the demo says of a run that scores as expected but for changes of the mIoU by stage; None: not scored."""
    def record(what, miou):
        return score_record(what=what, protocol='reference', results=[{**score_record()['results'][0], 'miou': miou}])

    records = [*(record(what, 1.0) for what in EXPECTED if changes.get(what, 0) is not None),
               *(record(what, miou + changes.get(what, 0)) for what, miou in EXPECTED.items()
                 if changes.get(what, 0) is not None), {**record('cam', 1.0), 'split': 'train'}]
    (folder / 'scores.json').write_text(json.dumps(records))
    return comparison_text(folder / 'scores.json')


def test_the_backbone_in_the_repository_is_the_one_that_is_documented_and_fits_the_demo():
    content = (ROOT / BACKBONE).read_bytes()
    assert hashlib.sha256(content).hexdigest() in (ROOT / 'pretrained/README.md').read_text()
    assert len(content) < 5_000_000
    backbone = make_backbone('resnet38d', COMMON['toy']['width'])
    load_imagenet(backbone, ROOT / BACKBONE)
    tensors, meta = read_network(ROOT / BACKBONE)
    assert meta['network'] == 'backbone' and meta['width'] == COMMON['toy']['width']
    assert all(tensors[f'{name}.running_var'].itemsize == 4 for name, layer in backbone.named_modules()
               if layer in set(norm_layers(backbone)))
    image, _, names = draw(0, 'train', 0)
    assert (image.shape, names) == ((128, 109, 3), ['pear']) and abs(image.mean() - 89.38) < 0.1, (
        'the backbone and the expected scores are of other images: make them anew')


def test_scores_in_the_range_agree_and_others_are_said(tmp_path):
    for change in (0, RANGE - 0.01, 0.01 - RANGE):
        text = text_of(tmp_path, walk=change)
        assert text.count('as expected') == 3 and 'out of range' not in text
        assert text.endswith('All scores are in the expected range.')
    for change in (RANGE + 0.01, -RANGE - 0.01):
        text = text_of(tmp_path, walk=change)
        lines = [line for line in text.splitlines() if line.endswith('out of range')]
        assert [line.split('  ')[0] for line in lines] == ['random walk'] and 'All scores' not in text
    text = text_of(tmp_path, seg=None)
    assert 'not scored' in text and 'All scores' not in text


@pytest.mark.parametrize('page', ['README.md', 'docs/results.md'])
def test_pages_quote_the_expected_scores(page):
    text = ' '.join((ROOT / page).read_text().split())
    cam, walk, seg = (f'{EXPECTED[what]:g}' for what in ('cam', 'walk', 'seg'))
    assert f'{cam} % for CAMs, {walk} % for the random walk and {seg} % for the segmentation, each ± {RANGE:g}' in text
