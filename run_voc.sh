#!/usr/bin/env bash
# Image-level labels of PASCAL VOC 2012 in, segmentation model and its scores out. ./run_voc.sh --help
root=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$("$root/setup_env.sh")} || exit
exec "$python" "$root/pipeline.py" voc12 "$@"
