#!/usr/bin/env bash
# Download, unpack, prepare and verify PASCAL VOC 2012 with the SBD masks. ./config_voc.sh --help
set -euo pipefail
cd "$(dirname "$0")"
exec "${PYTHON:-$(./setup_env.sh)}" -m voc12.config "$@"
