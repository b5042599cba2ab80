"""The rules of the repository's structure. Each check returns 'file:line: message' for every breach."""
import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lower may not import higher. Same rank: only within one package. Benchmarks look at everything.
RANK = {'tool': 0, 'lib.files': 1, 'lib.process': 2, 'lib.setup': 3, 'voc12': 4, 'coco': 4, 'lib.net': 5, 'lib.data': 5,
        'lib.run': 5, 'lib': 6, 'benchmarks': 7}
SCRIPT_RANK = 7
# The method can be pasted into a notebook: it knows no files, processes or network.
NOT_IN_TOOL = {'os', 'pathlib', 'multiprocessing', 'threading', 'urllib', 'tarfile', 'zipfile', 'subprocess', 'socket'}
DATA_SETS = ('voc12', 'coco')
THIRD_PARTY = {'torch', 'torchvision', 'numpy', 'PIL', 'cv2', 'scipy', 'pydensecrf', 'pycocotools', 'tqdm',
               'matplotlib', 'jinja2'}
OPTIONAL = {'requirements-timm.txt': {'timm', 'safetensors'}, 'requirements-export.txt': {'onnx', 'onnxruntime'},
            'requirements-own.txt': {'openpyxl', 'pillow_heif'}}
SKIP = {'tests', 'exp', 'pretrained', 'data', '.venv', '.git'}
# 80 is also a width of the CRF, in one file.
COUNTS, COUNTS_ALLOWED = (20, 21, 80, 81), {('densecrf.py', 80)}
FILE_CAP, FUNCTION_CAP, MAIN_CAP = 250, 60, 10
REACH_CAP = 40          # files of ours that CAM training imports


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def sources(root):
    """(path relative to root, text, tree) of every Python file of ours but the tests; lib/data is not a data folder."""
    paths = [path for name in sorted(root.iterdir()) if name.name not in SKIP
             for path in (sorted(name.rglob('*.py')) if name.is_dir() else [name]) if path.suffix == '.py']
    return [(path.relative_to(root), path.read_text(), parsed(path)) for path in paths]


def imported(tree):
    """(line, module) of each absolute import, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, '.' * node.level


def room(module):
    """The part of the project that a module (dotted) is in: 'tool', 'lib.run', 'lib' for what is in lib itself, ..."""
    parts = module.split('.')
    two = '.'.join(parts[:2])
    return two if two in RANK else parts[0]


def layers(root):
    """Imports go to the same room or to a lower rank, and to nothing that is not a declared requirement."""
    scripts = {path.stem for path in root.glob('*.py')}
    packages = {name.split('.')[0] for name in RANK}
    known = packages | scripts | THIRD_PARTY.union(*OPTIONAL.values()) | set(sys.stdlib_module_names)
    for rel, _, tree in sources(root):
        own = room('.'.join(rel.with_suffix('').parts)) if len(rel.parts) > 1 else None
        rank = RANK.get(own, SCRIPT_RANK)
        for line, module in imported(tree):
            package, other = module.split('.')[0], room(module)
            above = other in RANK and other != own and RANK[other] >= rank
            if above or (package in scripts and own != 'benchmarks'):
                yield f'{rel}:{line}: may not import {module}'
            elif package not in known:
                yield f'{rel}:{line}: {module} is neither a package here nor a requirement'


def method(root):
    """tool/ holds pure functions: no files, processes or network, and no global state."""
    for rel, _, tree in sources(root):
        if rel.parts[0] == 'tool':
            for line, module in imported(tree):
                if module.split('.')[0] in NOT_IN_TOOL:
                    yield f'{rel}:{line}: the method needs no {module}'
            for node in ast.walk(tree):
                if isinstance(node, ast.Global):
                    yield f'{rel}:{node.lineno}: global {", ".join(node.names)}'


def data_sets(root):
    """voc12, coco and lib/files/dataspec.py have no torch; above them only the registry knows VOC and COCO."""
    for rel, _, tree in sources(root):
        plain = rel.parts[0] in DATA_SETS or rel == Path('lib/files/dataspec.py')
        for line, module in imported(tree):
            package = module.split('.')[0]
            if plain and package in ('torch', 'torchvision'):
                yield f'{rel}:{line}: {rel.parts[0]} needs no torch'
            if package in DATA_SETS and package != rel.parts[0] and rel != Path('lib/data/registry.py'):
                yield f'{rel}:{line}: only lib/data/registry.py may import {package}'


def silent_imports(root):
    """A module holds imports, constants, definitions and the __main__ guard; importing it does nothing."""
    for rel, _, tree in sources(root):
        for node in tree.body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                yield f'{rel}:{node.lineno}: call at import: {ast.unparse(node)[:60]}'
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                yield f'{rel}:{node.lineno}: writes a global at import: {ast.unparse(node)[:60]}'
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == '*' for alias in node.names):
                yield f'{rel}:{node.lineno}: star import'
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith('sys.path.'):
                yield f'{rel}:{node.lineno}: {ast.unparse(node)[:70]}'


def dead_code(root):
    """No comment is a statement with a call, an assignment or an import in it."""
    for rel, text, _ in sources(root):
        for number, line in enumerate(text.splitlines(), 1):
            match = re.match(r'\s*#+\s?(.*\S)\s*$', line)
            if match and re.search(r'[=(]|^import |^from .* import', match[1]) and _is_statement(match[1]):
                yield f'{rel}:{number}: {match[1][:60]}'


def _is_statement(text):
    try:
        body = ast.parse(text.rstrip(':') if text.startswith(('if ', 'for ')) else text).body
    except SyntaxError:
        return False
    kinds = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Return)
    return bool(body) and (isinstance(body[0], kinds)
                           or isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Call))


def class_counts(root):
    """No literal class count: it belongs to the data set's specification."""
    for rel, _, tree in sources(root):
        for node in ast.walk(tree):
            if (isinstance(node, ast.Constant) and type(node.value) is int and node.value in COUNTS
                    and (rel.name, node.value) not in COUNTS_ALLOWED):
                yield f'{rel}:{node.lineno}: literal {node.value}'


def sizes(root):
    """Files and functions stay small, __main__ blocks smaller still."""
    for rel, text, tree in sources(root):
        if text.count('\n') > FILE_CAP:
            yield f'{rel}:1: {text.count(chr(10))} lines'
        for node in ast.walk(tree):
            length = getattr(node, 'end_lineno', 0) - getattr(node, 'lineno', 0) + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length > FUNCTION_CAP:
                yield f'{rel}:{node.lineno}: {node.name} has {length} lines'
            if isinstance(node, ast.If) and '__name__' in ast.unparse(node.test) and length > MAIN_CAP:
                yield f'{rel}:{node.lineno}: __main__ block has {length} lines'


def flag_types(root):
    """No type=bool, which takes every word for True."""
    for rel, _, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == 'type' and ast.unparse(node.value) == 'bool':
                yield f'{rel}:{node.value.lineno}: type=bool makes every non-empty value True'


CHECKS = {layers: 'lib/net/a.py: import eval\nimport nowhere', method: 'tool/a.py: import pathlib',
          data_sets: 'coco/a.py: import torch\nfrom voc12 import dataset', silent_imports: 'tool/a.py: print(1)',
          dead_code: 'tool/a.py: # x = f(1)', class_counts: 'tool/a.py: x = 21', flag_types: 'a.py: f(type=bool)',
          sizes: 'tool/a.py: def f():\n' + '    x = 1\n' * FUNCTION_CAP}


@pytest.mark.parametrize('check', CHECKS, ids=lambda check: check.__name__)
def test_structure_holds(check):
    assert not list(check(ROOT))


@pytest.mark.parametrize('check', CHECKS, ids=lambda check: check.__name__)
def test_check_finds_a_planted_breach(check, tmp_path):
    name, _, text = CHECKS[check].partition(': ')
    (tmp_path / 'eval.py').write_text('')
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert len(list(check(tmp_path))) == text.count('import') or len(list(check(tmp_path))) == 1


SCRIPTS = sorted(path.stem for path in ROOT.glob('*.py') if path.stem != 'pipeline')      # which has their flags


def reachable_text(path, seen):
    """The text of a file and of what it imports of ours."""
    if path not in seen:
        seen[path] = path.read_text()
        for _, module in imported(parsed(path)):
            for name in (module, module.rpartition('.')[0]):
                if (ROOT / f'{name.replace(".", "/")}.py').is_file():
                    reachable_text(ROOT / f'{name.replace(".", "/")}.py', seen)
    return '\n'.join(seen.values())


def test_cam_training_imports_few_files():
    seen = {}
    reachable_text(ROOT / 'train_cam_voc.py', seen)
    assert len(seen) <= REACH_CAP, sorted(str(path.relative_to(ROOT)) for path in seen)


@pytest.mark.parametrize('module', ['eval', 'lib.report.__main__', 'pipeline'])
def test_what_needs_no_network_starts_without_torch(module):
    code = f'import sys, {module}; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def parser_of(script):
    return importlib.import_module(script).make_parser()


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_flag_of_a_script_is_read_by_it_or_by_what_it_imports(script):
    text = reachable_text(ROOT / f'{script}.py', {})
    flags = [action.dest for action in parser_of(script)._actions if action.dest != 'help']
    assert len(flags) > 10
    assert [flag for flag in flags if not re.search(rf'\bargs\.{flag}\b', text)] == []


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_flag_is_explained_and_spelled_with_hyphens(script):
    for action in parser_of(script)._actions:
        assert action.help and all('_' not in word for word in action.option_strings), action.option_strings


def test_flags_of_one_name_mean_the_same_in_every_script():
    kinds = {}
    for script in SCRIPTS:
        for action in parser_of(script)._actions:
            for word in action.option_strings:
                kinds.setdefault(word, set()).add((action.dest, action.nargs == 0))
    assert {word: found for word, found in kinds.items() if len(found) > 1} == {}


def test_requirements_name_every_third_party_import():
    named = re.sub(r'[-_.]', '', (ROOT / 'requirements.txt').read_text().lower())
    packages = {'PIL': 'pillow', 'cv2': 'opencv'}
    assert [name for name in THIRD_PARTY if packages.get(name, name).lower() not in named] == []
