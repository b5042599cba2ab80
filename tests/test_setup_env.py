"""setup_env.sh with a Python that notes what pip is to install, and that can fail to compile pydensecrf2."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = '''#!/bin/sh
case "$*" in
    *find_spec*) [ -e .venv/complete ] ;;
    *version_info*) exit 0 ;;
    '-m venv'*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *' -r '*) for word; do last=$word; done; cat "$last" >> installed.txt; echo x > .venv/complete ;;
    *pydensecrf2==*) [ -z "$NO_COMPILER" ] && echo pydensecrf2 >> installed.txt ;;
    *) exit 3 ;;
esac
'''


@pytest.mark.parametrize('compiler', [True, False])
def test_everything_else_is_installed_where_pydensecrf_cannot_be_compiled(tmp_path, compiler):
    for name in ('setup_env.sh', 'requirements.txt', 'requirements-dev.txt'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/python3').write_text(PYTHON)
    (tmp_path / 'bin/python3').chmod(0o755)
    environment = {**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'NO_COMPILER': '' if compiler else 'x'}
    done = subprocess.run(['./setup_env.sh'], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f'{tmp_path}/.venv/bin/python\n'), done.stderr
    names = [line.partition('==')[0] for line in (tmp_path / 'installed.txt').read_text().splitlines() if '==' in line]
    wanted = [line.partition('==')[0] for line in (ROOT / 'requirements.txt').read_text().splitlines() if '==' in line]
    assert sorted([*names, 'pydensecrf2']) == sorted(wanted)
    notes = [line for line in done.stderr.splitlines() if line.startswith('note: pydensecrf2 could not be compiled')]
    assert len(notes) == (not compiler) and not (tmp_path / '.venv/incomplete').exists()
    assert ('pydensecrf2' in (tmp_path / 'installed.txt').read_text().splitlines()) == compiler
