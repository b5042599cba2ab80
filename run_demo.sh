#!/usr/bin/env bash
# The whole pipeline on synthetic images, on a CPU, in a few minutes (--smoke: one or two). ./run_demo.sh --help
root=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$("$root/setup_env.sh")} || exit
exec "$python" "$root/pipeline.py" demo "$@"
