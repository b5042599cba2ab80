# The pipeline, shared by run_voc.sh, run_coco.sh and run_demo.sh, which set
#   DATASET  --dataset of every script          TRAIN, VAL, SCORE  names of the splits
#   CAM_SCRIPT                                  ALL_STAGES         stages in order
# and call `pipeline "$@"`. PYTHON in the environment names another interpreter than setup_env.sh does.
# Each command is echoed so that it can be pasted; the first failure stops the run.
set -euo pipefail

usage() {
    cat <<TEXT
usage: $(basename "$0") [options] [flags of CAM training]

  --run NAME        name of the run, a folder in exp/ (default: $RUN)
  --stages LIST     comma-separated part of: $ALL_STAGES (default: all)
  --gpus N          GPUs that share a batch (default: all that are visible)
  --data-root DIR   folder of the images (default: the data set's own)
  --lists DIR       folder of the lists (default: the data set's own)
  --protocol NAME   reference or strict (default: reference)
  --dry-run         check the first stage's inputs, print all commands, run nothing
  --help            this text
Every other argument goes to CAM training, for example --isl-weight 0 --no-fsl for plain SEAM.
TEXT
}

say_and_run() {
    echo
    echo "+ $(printf '%q ' "$@")"
    [ -n "$DRY_RUN" ] || "$@"
}

# step SCRIPT ARGUMENTS...: a script with the arguments that all share.
step() {
    say_and_run "$PYTHON" "$@" --dataset "$DATASET" --run "$RUN" "${PLACE[@]}"
}

score() {
    step eval.py --what "$1" --split "$2" --protocol "$PROTOCOL"
}

stage_train_cam() { step "$CAM_SCRIPT" "${DEVICE[@]}" "${WEIGHTS[@]}" "${EXTRA[@]}"; }
stage_infer_cam() {
    step infer_cam.py --split "$VAL" --no-seeds
    score cam "$VAL"
    step infer_cam.py --split "$TRAIN"
    score cam "$SCORE"
}
stage_train_aff() { step train_aff.py "${DEVICE[@]}" "${WEIGHTS[@]}"; }
stage_infer_aff() {
    step infer_aff.py --split "$VAL"
    score walk "$VAL"
    step infer_aff.py --split "$TRAIN"
    score walk "$SCORE"
}
stage_train_seg() { step train_seg.py "${DEVICE[@]}" "${WEIGHTS[@]}"; }
stage_infer_seg() {
    step infer_seg.py --split "$VAL"
    score seg "$VAL"
    step infer_seg.py --split "$SCORE"
    score seg "$SCORE"
}
stage_table() { step eval.py --table; }

pipeline() {
    STAGES=$ALL_STAGES PROTOCOL=reference DRY_RUN='' PLACE=() DEVICE=() EXTRA=() WEIGHTS=("${WEIGHTS[@]}")
    while [ $# -gt 0 ]; do
        case $1 in
            --run|--stages|--gpus|--data-root|--voc12-root|--voc12_root|--coco-root|--coco_root|--lists|--protocol)
                [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; } ;;&
            --run) RUN=$2; shift 2 ;;
            --stages) STAGES=$2; shift 2 ;;
            --gpus) DEVICE=(--gpus "$2"); shift 2 ;;
            --data-root|--voc12-root|--voc12_root|--coco-root|--coco_root) PLACE+=(--data-root "$2"); shift 2 ;;
            --lists) PLACE+=(--lists "$2"); shift 2 ;;
            --protocol) PROTOCOL=$2; shift 2 ;;
            --dry-run) DRY_RUN=yes; shift ;;
            --help|-h) usage; exit 0 ;;
            *) EXTRA+=("$1"); shift ;;
        esac
    done
    PYTHON=${PYTHON:-$(./setup_env.sh)}
    local stage
    for stage in ${STAGES//,/ }; do
        [[ ",$ALL_STAGES," == *",$stage,"* ]] || { echo "error: --stages: $stage is not one of $ALL_STAGES" >&2; exit 2; }
    done
    [ -z "$DRY_RUN" ] || "$PYTHON" "$CAM_SCRIPT" --dry-run --dataset "$DATASET" --run "$RUN" "${PLACE[@]}" \
        "${DEVICE[@]}" "${WEIGHTS[@]}" "${EXTRA[@]}"
    for stage in ${STAGES//,/ }; do
        echo
        echo "== $stage"
        "stage_$stage"
    done
}
