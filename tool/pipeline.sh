# The pipeline, shared by run_voc.sh, run_coco.sh, run_demo.sh and run_own.sh, which set
#   DATASET  --dataset of every script          TRAIN, VAL, SCORE  names of the splits
#   CAM_SCRIPT                                  ALL_STAGES         stages in order
# and call `pipeline "$@"`. PYTHON in the environment names another interpreter than setup_env.sh does.
# Each command is echoed so that it can be pasted; the first failure stops the run. Run again, finished steps say so and
# the first unfinished one goes on: each script knows that by its own files.
set -euo pipefail

usage() {
    cat <<TEXT
usage: $(basename "$0") ${FIRST:-}[options] [flags of CAM training]

${MORE:-}  --run NAME        name of the run, a folder in exp/ (default: $RUN)
  --stages LIST     comma-separated part of: $ALL_STAGES (default: all)
  --gpus N          GPUs, one process each (torchrun): they share each batch in training and the list in inference;
                    the results are those of one GPU (default: one process)
  --fresh           start every stage over (default: each goes on where it was, a finished one says so)
  --weights FILE    backbone weights of all training stages (default: the scripts' own, in pretrained/)
  --backbone NAME   backbone of every stage, resnet38d or timm:NAME (default: resnet38d)
  --width X         multiple of the published channel counts, in every stage (default: the scripts' own)
  --batch-size N    images a step of all training stages (default: the scripts' own)
  --amp MODE        none, bf16, fp16 or auto, for every stage that runs a network (default: the scripts' own)
  --data-root DIR   folder of the images (default: the data set's own)
  --lists DIR       folder of the lists (default: the data set's own)
  --exp DIR         folder of all runs (default: exp)
  --protocol NAME   reference or strict (default: reference)
  --dry-run         check the first stage's inputs, print the disk needed and all commands, run nothing
  --help            this text
Every other argument goes to CAM training, for example --isl-weight 0 --no-fsl for plain SEAM.
TEXT
}

# found TEST PATH: a relative path as it is meant where the driver was called, which may be another folder.
found() {
    if [[ $2 != /* && $OLDPWD != "$PWD" ]] && [ "$1" "$OLDPWD/$2" ]; then echo "$OLDPWD/$2"; else echo "$2"; fi
}

say_and_run() {
    echo
    echo "+ $(printf '%q ' "$@")"
    [ -n "$DRY_RUN" ] || "$@"
}

# step SCRIPT ARGUMENTS...: a script with the arguments that all share.
step() {
    say_and_run "${LAUNCH[@]}" "$@" --dataset "$DATASET" --run "$RUN" "${PLACE[@]}" "${STORE[@]}" "${FRESH[@]}"
}

# spread SCRIPT ARGUMENTS...: a step that runs a network, in as many processes as there are GPUs to use. SPREAD in the
# environment replaces interpreter and launcher, see examples/slurm/run_voc_nodes.sh.
spread() {
    local LAUNCH=("$PYTHON" "${GPUS[@]}")
    [ -z "${SPREAD:-}" ] || read -ra LAUNCH <<<"$SPREAD"
    step "$@"
}

score() {
    step eval.py --what "$1" --split "$2" --protocol "$PROTOCOL"
}

stage_train_cam() { spread "$CAM_SCRIPT" "${TRAINING[@]}" "${EXTRA[@]}"; }
stage_infer_cam() {
    spread infer_cam.py --split "$VAL" --no-seeds "${NETWORK[@]}"
    score cam "$VAL"
    spread infer_cam.py --split "$TRAIN" "${NETWORK[@]}"
    score cam "$SCORE"
}
stage_train_aff() { spread train_aff.py "${TRAINING[@]}"; }
stage_infer_aff() {
    spread infer_aff.py --split "$VAL" "${NETWORK[@]}"
    score walk "$VAL"
    spread infer_aff.py --split "$TRAIN" "${NETWORK[@]}"
    score walk "$SCORE"
}
stage_train_seg() { spread train_seg.py "${TRAINING[@]}"; }
stage_infer_seg() {
    spread infer_seg.py --split "$VAL" "${NETWORK[@]}"
    score seg "$VAL"
    spread infer_seg.py --split "$SCORE" "${NETWORK[@]}"
    score seg "$SCORE"
}
stage_table() { step eval.py --table; }
stage_report() { local FRESH=(); step -m lib.report; }     # is always made anew

pipeline() {
    STAGES=$ALL_STAGES PROTOCOL=reference DRY_RUN='' EXP=exp PLACE=() STORE=() GPUS=() FRESH=() EXTRA=() WEIGHTS=() NETWORK=() SIZE=() SHARED=()
    while [ $# -gt 0 ]; do
        case $1 in      # --option=value is --option value
            --run=*|--stages=*|--gpus=*|--weights=*|--amp=*|--backbone=*|--width=*|--batch[-_]size=*|--data[-_]root=*|--voc12[-_]root=*|--coco[-_]root=*|--lists=*|--exp=*|--protocol=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case $1 in
            --run|--stages|--gpus|--weights|--amp|--backbone|--width|--batch[-_]size|--data[-_]root|--voc12[-_]root|--coco[-_]root|--lists|--exp|--protocol)
                [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; } ;;&
            --run) RUN=$2; shift 2 ;;
            --stages) STAGES=${2// /}; shift 2 ;;
            --gpus) [[ $2 =~ ^[1-9][0-9]*$ ]] || { echo "error: --gpus is ${2@Q}, expected 1 or more" >&2; exit 2; }
                GPUS=(-m torch.distributed.run --standalone --nproc-per-node "$2"); shift 2 ;;
            --fresh) FRESH=(--fresh); shift ;;
            --weights) WEIGHTS=(--weights "$(found -f "$2")"); shift 2 ;;
            --amp) NETWORK+=("$1" "$2"); shift 2 ;;
            --backbone|--width) NETWORK+=("$1" "$2") SIZE+=("$1" "$2"); shift 2 ;;
            --batch[-_]size) SHARED+=("$1" "$2"); shift 2 ;;
            --data[-_]root|--voc12[-_]root|--coco[-_]root) PLACE+=(--data-root "$(found -d "$2")"); shift 2 ;;
            --lists) PLACE+=(--lists "$(found -d "$2")"); shift 2 ;;
            --exp) EXP=$(found -d "$2"); STORE=(--exp "$EXP"); shift 2 ;;
            --protocol) [[ $2 == reference || $2 == strict ]] ||
                    { echo "error: --protocol is ${2@Q}, expected reference or strict" >&2; exit 2; }
                PROTOCOL=$2; shift 2 ;;
            --dry-run) DRY_RUN=yes; shift ;;
            --dataset*) echo "error: $(basename "$0") is for $DATASET; call the scripts one by one for another data set" >&2
                exit 2 ;;
            --help|-h) usage; exit 0 ;;
            *) EXTRA+=("$1"); shift ;;
        esac
    done
    PYTHON=${PYTHON:-$(./setup_env.sh)}
    LAUNCH=("$PYTHON")
    ! declare -F after_options >/dev/null || after_options
    TRAINING=("${NETWORK[@]}" "${SHARED[@]}" "${WEIGHTS[@]}")
    local stage
    for stage in ${STAGES//,/ }; do
        [[ ",$ALL_STAGES," == *",$stage,"* ]] || { echo "error: --stages: $stage is not one of $ALL_STAGES" >&2; exit 2; }
    done
    if [ -n "$DRY_RUN" ] && [[ $STAGES == train_cam* ]]; then
        "$PYTHON" "$CAM_SCRIPT" --dry-run --dataset "$DATASET" --run "$RUN" "${PLACE[@]}" "${STORE[@]}" "${TRAINING[@]}" \
            "${EXTRA[@]}"
    fi
    # The demo's set is not there before its first stage has run.
    if [ -n "$DRY_RUN" ] && [[ $STAGES == *_* ]] && { [[ $DATASET != *.json ]] || [ -e "$DATASET" ]; }; then
        "$PYTHON" -m lib.disk --dataset "$DATASET" "${PLACE[@]}" --stages "$STAGES" "${SIZE[@]}"
    fi
    for stage in ${STAGES//,/ }; do
        echo
        echo "== $stage"
        "stage_$stage"
    done
}
