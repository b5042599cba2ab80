"""What the README and docs/ say about files, flags and code is so."""
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').glob('*.md'))
PAGES = ['README.md', *DOCS]
SCRIPTS = ('train_cam_voc', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg', 'eval', 'lib.panel',
           'lib.report.__main__', 'lib.data.own', 'lib.data.toy', 'benchmarks.compare')


def known_flags():
    """Flags of all scripts, and those that the drivers and other commands spell out in their text."""
    parsers = [importlib.import_module(name).make_parser() for name in SCRIPTS]
    parsers += [importlib.import_module('pipeline').make_parser(driver) for driver in ('voc12', 'own', 'demo')]
    parsers.append(importlib.import_module('lib.setup.datasetup').make_parser('', Path(), Path()))
    flags = {flag for parser in parsers for flag in parser._option_string_actions}
    others = ('benchmarks/ablation.sh', 'coco/prepare.py',
              'examples/slurm/run_voc_nodes.sh', 'tests/fault.py', 'tests/history.py')
    spelled = re.findall(r'--[a-z][a-z0-9-]+', ''.join((ROOT / path).read_text() for path in others))
    return flags | set(spelled) | {'--logdir', '--nv', '--bind', '--fakeroot'}


def test_the_snippet_runs():
    code = re.search(r'```python\n(.*?)```', (ROOT / 'docs/add_on.md').read_text(), re.DOTALL)[1]
    names = {}
    exec(code, names)
    assert names['loss'].isfinite() and names['logits'].grad.abs().sum() > 0


@pytest.mark.parametrize('page', PAGES)
def test_every_flag_named_is_known(page):
    assert set(re.findall(r'(?<![\w-])--[a-z][a-z0-9-]+', (ROOT / page).read_text())) <= known_flags()


@pytest.mark.parametrize('page', PAGES)
def test_every_file_of_ours_named_is_there(page):
    words = set(re.findall(r'[\w./]+\.(?:py|sh)\b', (ROOT / page).read_text()))
    folders = ('', 'benchmarks', 'tool', 'lib', 'lib/net', 'lib/data', 'lib/run')
    assert not [word for word in words if not any((ROOT / folder / word).is_file() for folder in folders)]


@pytest.mark.parametrize('page', [*PAGES, 'CONTRIBUTING.md', 'exp/README.md', 'pretrained/README.md'])
def test_every_link_leads_somewhere(page):
    path = ROOT / page
    for target in re.findall(r'(?<!!)\[[^]]+\]\(([^)#]+)\)', path.read_text()):
        assert (path.parent / target).exists(), target
