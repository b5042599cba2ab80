#!/usr/bin/env bash
# Your own images and their image-level labels in, segmentation model and a report out.
# ./run_own.sh data/my.json [--light] [options]; python -m lib.own writes data/my.json. ./run_own.sh --help
root=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$("$root/setup_env.sh")} || exit
exec "$python" "$root/pipeline.py" own "$@"
