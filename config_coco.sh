#!/usr/bin/env bash
# Download, unpack, prepare and verify MS COCO 2014. ./config_coco.sh --help
set -euo pipefail
cd "$(dirname "$0")"
exec "${PYTHON:-$(./setup_env.sh)}" -m coco.config "$@"
