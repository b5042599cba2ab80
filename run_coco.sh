#!/usr/bin/env bash
# Image-level labels of MS COCO 2014 in, segmentation model and its scores out. ./run_coco.sh --help
root=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$("$root/setup_env.sh")} || exit
exec "$python" "$root/pipeline.py" coco "$@"
