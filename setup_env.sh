#!/usr/bin/env bash
# Print the path of the Python to use: the active one if it has all packages of requirements.txt (and, with --dev, of
# requirements-dev.txt), otherwise that of .venv, which is created on the first call.
set -euo pipefail
cd "$(dirname "$0")"
files=(requirements.txt)
[ "${1:-}" != --dev ] || files+=(requirements-dev.txt)

modules='torch torchvision numpy scipy cv2 PIL pycocotools tqdm tensorboard matplotlib'
[ "${1:-}" != --dev ] || modules+=' pytest xdist ruff'

optional=pydensecrf2            # compiled at installation

has_all() {
    "$1" -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))' $modules
}

pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }

python=$(command -v python3 || command -v python) || { echo 'error: no python3 found; install Python 3.11 or later' >&2; exit 2; }
if has_all "$python"; then
    echo "$python"
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $("$python" --version) is too old; install Python 3.11 or later" >&2; exit 2; }
if [ ! -x .venv/bin/python ] || [ -e .venv/incomplete ] || ! has_all .venv/bin/python; then
    echo 'Setting up .venv from requirements.txt: about 6 GB, a few minutes' >&2
    # If this script is killed, a half-unpacked package looks installed: then start with an empty .venv.
    if [ -e .venv/incomplete ]; then "$python" -m venv --clear .venv >&2; else "$python" -m venv .venv >&2; fi
    touch .venv/incomplete
    for file in "${files[@]}"; do
        grep -v "$optional" "$file" > .venv/wanted.txt
        pip install -r .venv/wanted.txt >&2 ||
            { echo "error: pip could not install $file; see above, then run the same command again" >&2; exit 2; }
    done
    pip install "$(grep -o "$optional==[0-9.]*" requirements.txt)" >/dev/null 2>&1 ||
        echo "note: $optional could not be compiled (C++ compiler, Python headers); only --crf-backend pydensecrf needs it" >&2
    rm .venv/incomplete
fi
echo "$PWD/.venv/bin/python"
