#!/usr/bin/env bash
# Your own pictures and their image-level labels in, segmentation model and a report out.
# ./run_own.sh data/my.json [--light] [options of run_voc.sh]; python -m lib.data.own writes data/my.json.
cd "$(dirname "$0")"
source tool/pipeline.sh
case ${1:-} in
    *.json) DATASET=$1; shift ;;
    --help|-h) DATASET=data/my.json ;;
    *) echo 'error: name the data set first: ./run_own.sh data/my.json (python -m lib.data.own writes it)' >&2; exit 2 ;;
esac
DATASET=$(found -f "$DATASET")
RUN=$(basename "$DATASET" .json) CAM_SCRIPT=train_cam_voc.py
if [ "$RUN" = dataset ] && [ -e "$DATASET" ]; then      # birds/dataset.json is of the birds
    RUN=$(cd "$(dirname "$DATASET")" && basename "$PWD")
fi
ALL_STAGES=train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report
FIRST='DATA.json ' MORE='  --light           for a laptop: EfficientNet-Lite0 (requirements-timm.txt) with its ImageNet features as they are; only
                    heads are trained
'
LIGHT='' FROZEN=() HEADS=() SEG=() REST=()
for word in "$@"; do
    if [ "$word" = --light ]; then LIGHT=yes; else REST+=("$word"); fi
done
after_options() {       # the set's splits, and which of them can be scored
    local facts
    [ -z "$LIGHT" ] || light_settings
    facts=$("$PYTHON" -m lib.data.folder "$DATASET")
    { read -r TRAIN; read -r VAL; read -r SCORE; read -r _ MASKED; } <<< "$facts"
}
light_settings() {      # fixed features, trained heads; what the caller gives comes later and wins
    NETWORK=(--backbone timm:tf_efficientnet_lite0 "${NETWORK[@]}")
    WEIGHTS=(--weights efficientnet-lite0 "${WEIGHTS[@]}")
    FROZEN=(--freeze backbone)
    HEADS=(--lr 0.003 --head-lr 100 --min-steps 100)       # heads on a few pictures soon know them by heart
    SEG=(--fov-channels 128 --max-steps 300)
    SIZE=(--backbone timm:tf_efficientnet_lite0 --fov-channels 128 "${SIZE[@]}")
}
stage_train_cam() { spread "$CAM_SCRIPT" "${TRAINING[@]}" "${FROZEN[@]}" "${HEADS[@]}" "${EXTRA[@]}"; }
stage_train_aff() { spread train_aff.py "${TRAINING[@]}" "${FROZEN[@]}" "${HEADS[@]}"; }
stage_train_seg() { spread train_seg.py "${TRAINING[@]}" "${FROZEN[@]}" "${SEG[@]}"; }
score() { [[ " $MASKED " != *" $2 "* ]] || step eval.py --what "$1" --split "$2" --protocol "$PROTOCOL" --masked-only; }
stage_table() { [ -z "$MASKED" ] || step eval.py --table; }
pipeline "${REST[@]}"
