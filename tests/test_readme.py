"""What the README and docs/ say about commands, flags, files and code is so."""
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import eval as evaluation
import infer_seg
import pipeline
from benchmarks import figure
from lib.data.toy import write_set
from lib.own import __main__ as own
from lib.process import launch
from lib.report import __main__ as report
from lib.run.options import plain_flag
from tests.running import LOADED_HERE, NETWORK, SCALES
from tool.probutils import fsl_loss, isl_loss

ROOT = Path(__file__).parent.parent
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').glob('*.md'))
PAGES = ['README.md', *DOCS]
SCRIPTS = ('train_cam_voc', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg', 'eval',
           'lib.report.__main__', 'lib.own.__main__', 'lib.export', 'lib.suspects', 'lib.data.toy',
           'benchmarks.compare')
DRIVERS = {'./run_voc.sh': 'voc12', './run_coco.sh': 'coco', './run_demo.sh': 'demo', './run_own.sh': 'own'}
JOBS = ('examples/slurm/run_voc_one_node.sh', 'examples/slurm/run_voc_nodes.sh')
COMMAND = re.compile(r'(?:(?:\./|benchmarks/)\w+\.sh|python|torchrun|sbatch|apptainer|pip|tensorboard|DATA=\S+)(?: |$)')


def blocks(page):
    """Code of a page: blocks by their language ('' for indented ones), and inline code as '`'."""
    text = (ROOT / page).read_text()
    yield from re.findall(r'^```(\w+)\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    text = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)
    yield '', '\n'.join(re.findall(r'^ {4}(.*)', text, re.MULTILINE))
    text = re.sub(r'^ {4}.*', '', text, flags=re.MULTILINE)
    yield '`', '\n'.join(' '.join(code.split()) for code in re.findall(r'`([^`]+)`', text))


def commands(page):
    """The commands of a page as words; what a block says behind three spaces is not the command's."""
    text = '\n'.join(block for language, block in blocks(page) if language != 'python').replace('$D', '--dataset toy')
    lines = [re.split(r'\s{3,}', line.strip())[0] for line in re.sub(r'\\\n\s*', '', text).splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if COMMAND.match(line)]
    return [words for words in found if len(words) > 1 or '/' in words[0]]


EVERY = sorted({(page, shlex.join(words)) for page in PAGES for words in commands(page)})


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    """A driver goes to the repository's folder; the test comes back."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """A user's folder with a few photos, their table, and the data set made of both by the README's command."""
    folder = tmp_path_factory.mktemp('user')
    write_set(folder / 'toy', train=20, val=1)
    (folder / 'toy/images').rename(folder / 'photos')
    names = sorted(path.name for path in (folder / 'photos').iterdir())
    rows = [f'{name},wren' + ';red kite' * (number % 2) for number, name in enumerate(names)]
    (folder / 'labels.csv').write_text('image,labels\n' + '\n'.join(rows))
    (folder / 'new').mkdir()
    for name in names[:2]:
        (folder / 'new' / name).write_bytes((folder / 'photos' / name).read_bytes())
    words, = {shlex.join(words): words for words in commands('README.md') if 'lib.own' in words}.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        own.main(words[3:])
    return folder


def plan(driver, words, caller, monkeypatch):
    """Have a driver check all its flags and print its commands; nothing is run."""
    monkeypatch.setattr(launch, 'run', lambda *_: 0)
    monkeypatch.chdir(caller)
    words = [word for word in words if word != '--dry-run']
    assert not pipeline.main([driver, *words, *(['--device', 'cpu'] if '--gpus' in words else [])])


def parse(module, words):
    """Have the parser of a module read the words, if it has one; else look for the flags in its text."""
    module = module if (ROOT / f'{module.replace(".", "/")}.py').is_file() else f'{module}.__main__'
    text = (ROOT / f'{module.replace(".", "/")}.py').read_text()
    if 'make_parser()' not in text:
        assert all(word in text for word in words if word.startswith('--')), words
    elif words:
        importlib.import_module(module).make_parser().parse_args(words)


def check(words, caller, monkeypatch, capsys):
    """A command as a user in the folder `caller` gives it: its files are there, and it understands its flags."""
    first, rest = words[0], words[1:]
    if first.startswith('DATA='):
        check(rest, caller, monkeypatch, capsys)
    elif first in DRIVERS and '--help' not in rest:
        plan(DRIVERS[first], rest, caller, monkeypatch)
    elif first.startswith('./config_'):
        module = importlib.import_module(f'{ {"./config_voc.sh": "voc12", "./config_coco.sh": "coco"}[first] }.config')
        with pytest.raises(SystemExit):
            monkeypatch.setattr(sys, 'argv', [first, '--help'])
            module.main(['--help'])
        assert {word for word in rest if word.startswith('--')} <= set(re.findall(r'--[\w-]+', capsys.readouterr().out))
    elif first == 'python' and rest[0] == '-m':
        parse(rest[1], rest[2:])
    elif first == 'python':
        parse(rest[0].removesuffix('.py').replace('/', '.'), [word for word in rest[1:] if word != '--help'])
    elif first == 'torchrun' and '--' in rest:
        check(['python', *rest[rest.index('--') + 1:]], caller, monkeypatch, capsys)
    elif first == 'sbatch':
        assert rest[0] in JOBS and (ROOT / rest[0]).is_file()
        plan('voc12', rest[1:], caller, monkeypatch)
    elif first == 'apptainer' and rest[0] == 'run':
        check(rest[rest.index('hfpl.sif') + 1:], caller, monkeypatch, capsys)
    elif first == 'apptainer':
        assert words in (['apptainer', 'test', 'hfpl.sif'], 'apptainer build --fakeroot hfpl.sif pytorch.def'.split())
    elif first == 'pip':
        assert rest == ['install', 'pydensecrf2'] or rest[:2] == ['install', '-r'] and (ROOT / rest[2]).is_file()
    elif first == 'benchmarks/ablation.sh' and rest:
        done = subprocess.run([ROOT / first, *rest, '--dry-run'], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            check(shlex.split(line), caller, monkeypatch, capsys)
    else:
        assert first in ('torchrun', 'tensorboard', 'apptainer') or (ROOT / first).stat().st_mode & 0o100, words


@pytest.mark.parametrize('page, command', EVERY)
def test_every_command_names_files_and_flags_that_are_there(page, command, user, monkeypatch, capsys):
    check(shlex.split(command), user, monkeypatch, capsys)


def test_the_readme_shows_all_entry_points():
    shown = {words[0] for words in commands('README.md')}
    assert {*DRIVERS, './setup_env.sh', './config_voc.sh', './config_coco.sh', 'benchmarks/ablation.sh'} <= shown
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 160


def test_commands_of_the_readme_that_read_a_run_work_on_one(run_folder, toy, user, monkeypatch, tmp_path):
    this_run = ['--dataset', str(toy), '--exp', str(run_folder.parent), '--run', 'toy', *LOADED_HERE]
    ran = set()
    for words in commands('README.md'):
        if words[:2] == ['python', 'eval.py']:
            evaluation.main([*words[2:], *this_run])
        elif words[:2] == ['python', 'infer_seg.py']:
            monkeypatch.chdir(user)
            infer_seg.main([*words[2:], *this_run, *NETWORK[2:], *SCALES, '--out', str(tmp_path / 'out')])
            assert len(list((tmp_path / 'out/overlays').glob('*.jpg'))) == 2
        elif words[:3] == ['python', '-m', 'lib.report']:
            report.main([*words[3:], *this_run, '--out', str(tmp_path / 'report.html'), '--count', '1'])
        else:
            continue
        ran.add(' '.join(words[:3]))
    assert {'python eval.py --table', 'python infer_seg.py --run', 'python -m lib.report'} <= ran


def test_the_figure_is_drawn_from_a_run(run_folder, toy, tmp_path, monkeypatch):
    out = tmp_path / 'figure.png'
    words = ['--dataset', str(toy), '--run', str(run_folder), '--images', '0', '3', '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', ['figure.py', *words])
    figure.main()
    assert Image.open(out).width == Image.open(ROOT / 'docs/demo.png').width
    assert (ROOT / 'docs/demo.png').stat().st_size < 400_000


def python_block(page, word):
    """The Python code of a page that holds a word."""
    return next(block for language, block in blocks(page) if language == 'python' and word in block)


def snippet(page, word='isl'):
    """What it defines."""
    names = {}
    exec(python_block(page, word), names)
    return names


@pytest.mark.parametrize('page', ['README.md', 'docs/predict.md'])
def test_a_trained_network_is_used_from_another_folder(page, run_folder, toy, tmp_path):
    shutil.copy(toy.parent / 'images/val_00000.jpg', tmp_path / 'photo.jpg')
    code = python_block(page, 'Segmenter').replace('exp/my', str(run_folder))
    code = code.replace('/path/to/this/checkout', str(ROOT))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)} if page != 'README.md' else None)
    assert done.returncode == 0 and done.stdout.startswith('{'), done.stderr


def test_the_losses_of_the_readme_are_those_of_the_method():
    plain = snippet('README.md')
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 9, 12, requires_grad=True)
    labels = torch.tensor([[1., 0, 0], [0, 1, 1]])
    cams, images = logits.detach().sigmoid().requires_grad_(), torch.rand(2, 3, 9, 12)
    for mine, theirs, maps, inputs in ((plain['isl'], isl_loss, logits, (logits, labels)),
                                       (plain['fsl'], fsl_loss, cams, (cams, images))):
        values = []
        for loss in (mine, theirs):
            torch.manual_seed(1)
            value = loss(*inputs)
            values += [value.detach(), *torch.autograd.grad(value, maps)]
        torch.testing.assert_close(values[0], values[2], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(values[1], values[3], rtol=1e-4, atol=1e-6)


def test_the_snippet_for_other_methods_runs():
    names = snippet('docs/add_on.md')
    assert names['loss'].isfinite() and names['logits'].grad.abs().sum() > 0


def known_flags():
    """Flags of all scripts, and those that the drivers and other commands spell out in their text."""
    parsers = [importlib.import_module(name).make_parser() for name in SCRIPTS]
    parsers += [pipeline.make_parser(driver) for driver in ('voc12', 'own', 'demo')]
    parsers.append(importlib.import_module('lib.setup.datasetup').make_parser('', '', Path(), Path()))
    flags = {flag for parser in parsers for flag in parser._option_string_actions}
    others = ('benchmarks/ablation.sh', 'coco/prepare.py', *JOBS, 'tests/fault.py', 'tests/history.py',
              'benchmarks/photo_set.py', 'benchmarks/crf_agreement.py')
    spelled = re.findall(r'--[a-z][a-z0-9-]+', ''.join((ROOT / path).read_text() for path in others))
    return flags | set(spelled) | {'--logdir', '--nv', '--bind', '--fakeroot', '--help'}


@pytest.mark.parametrize('page', PAGES)
def test_every_flag_named_is_known(page):
    named = re.findall(r'(?<![\w-])--[a-z][a-z0-9_-]+\b(?!:)', (ROOT / page).read_text())
    assert {plain_flag(flag) for flag in named} <= known_flags()


@pytest.mark.parametrize('page', [*PAGES, 'CONTRIBUTING.md', 'exp/README.md', 'pretrained/README.md'])
def test_every_file_of_ours_named_is_there(page):
    words = set(re.findall(r'[\w./-]+\.(?:py|sh|def|txt)\b', (ROOT / page).read_text()))
    words = {word for word in words if '/' not in word or word.split('/')[0] in {path.name for path in ROOT.iterdir()}}
    lists = re.compile(r'(?:voc12/|coco/|lists/|log|labels|train|val|\w+_aug).*\.txt|<')
    folders = ('', 'benchmarks', 'tool', 'lib', 'lib/net', 'lib/data', 'lib/run', 'voc12')
    assert not [word for word in words
                if not any((ROOT / folder / word).is_file() for folder in folders) and not lists.match(word)]


@pytest.mark.parametrize('page', [*PAGES, 'CONTRIBUTING.md', 'exp/README.md', 'pretrained/README.md'])
def test_every_link_leads_somewhere(page):
    path = ROOT / page
    for target, part in re.findall(r'\[[^]]*\]\(([^)#:\s]*)(#[^)]*)?\)', path.read_text()):
        to = path.parent / target if target else path
        assert to.exists(), target
        if part:
            heads = re.findall(r'^#+ (.*)', to.read_text(), re.MULTILINE)
            assert part[1:] in {re.sub(r'[^\w -]', '', head).lower().replace(' ', '-') for head in heads}, part
