#!/usr/bin/env bash
# Style check and all tests. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
python=$(./setup_env.sh --dev)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$python" -m ruff check .
"$python" -m pytest -q -n 2 --dist worksteal "$@"
