#!/usr/bin/env bash
# The whole pipeline on drawn images, on a CPU, in minutes. ./run_demo.sh [--seed N] [options of run_voc.sh]
cd "$(dirname "$0")"
source tool/pipeline.sh
SEED=0 REST=()
while [ $# -gt 0 ]; do
    case $1 in
        --seed=*) SEED=${1#*=}; shift ;;
        --seed) SEED=${2:-}; shift $(($# > 1 ? 2 : 1)) ;;
        *) REST+=("$1"); shift ;;
    esac
done
[[ $SEED =~ ^(0|[1-9][0-9]*)$ ]] || { echo "error: --seed is ${SEED@Q}, expected a whole number" >&2; exit 2; }
MORE='  --seed N          another drawing, with a backbone of its own (default: 0)
'
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}    # the second core reads images, runs CRFs and scores
DATASET=data/toy-$SEED/dataset.json RUN=toy-$SEED TRAIN=train VAL=val SCORE=train CAM_SCRIPT=train_cam_voc.py
ALL_STAGES=draw,backbone,train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report
stage_draw() { say_and_run "$PYTHON" -m lib.data.toy --out "data/toy-$SEED" --seed "$SEED"; }
after_options() { [ ${#WEIGHTS[@]} -gt 0 ] || WEIGHTS=(--weights "$EXP/$RUN/backbone/model.pth"); }
stage_backbone() { step pretrain_toy.py --seed "$((SEED + 1))"; }
pipeline "${REST[@]}"
