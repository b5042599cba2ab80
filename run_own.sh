#!/usr/bin/env bash
# Your own pictures and their image-level labels in, segmentation model and a report out.
# ./run_own.sh data/my.json [options of run_voc.sh]; python -m lib.data.own writes data/my.json.
HERE=$PWD
cd "$(dirname "$0")"
source tool/pipeline.sh
case ${1:-} in
    *.json) DATASET=$1; shift ;;
    --help|-h) DATASET=data/my.json ;;
    *) echo 'error: name the data set first: ./run_own.sh data/my.json (python -m lib.data.own writes it)' >&2; exit 2 ;;
esac
[ -e "$DATASET" ] || [ ! -e "$HERE/$DATASET" ] || DATASET=$HERE/$DATASET
RUN=$(basename "$DATASET" .json) CAM_SCRIPT=train_cam_voc.py
ALL_STAGES=train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report
after_options() {       # the set's splits, and whether anything can be scored
    local facts
    facts=$("$PYTHON" -m lib.data.folder "$DATASET")
    { read -r TRAIN; read -r VAL; read -r SCORE; read -r MASKS; } <<< "$facts"
}
score() { [ "$MASKS" != masks ] || step eval.py --what "$1" --split "$2" --protocol "$PROTOCOL" --masked-only; }
stage_table() { [ "$MASKS" != masks ] || step eval.py --table; }
pipeline "$@"
