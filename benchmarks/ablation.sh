#!/usr/bin/env bash
# Ablation of the losses: CAM training as plain SEAM, with each loss, and with both, over several seeds; then a table.
#
#   benchmarks/ablation.sh --dataset toy --weights pretrained/toy_backbone.pth
#
# The runs are exp/<name>-<variant>-<seed>. Finished runs are skipped, an interrupted training resumes; the same name
# with other settings is refused. Set PYTHON in the environment to use another interpreter than that of setup_env.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<TEXT
usage: ablation.sh --dataset D [options] [flags of CAM training]

  --dataset D        voc12, coco, toy, or the path of a dataset.json
  --seeds LIST       comma-separated (default: $SEEDS)
  --variants LIST    comma-separated subset of $VARIANTS (default: all)
  --name NAME        prefix of the run names (default: $NAME)
  --exp DIR          folder of all runs (default: $EXP)
  --split NAME       split to score (default: $SPLIT)
  --infer FLAGS      flags of infer_cam.py, quoted: '--scales 1 --workers 0'
  --data-root DIR, --lists DIR   as in the other scripts
  --dry-run          print the commands, run nothing
  --help             print this text
All other arguments are passed to CAM training, for example --weights FILE --max-steps 100.
TEXT
}

flags_of() {        # VARIANT: its flags
    case $1 in
        seam) echo --isl-weight 0 --no-fsl ;;
        isl) echo --no-fsl ;;
        fsl) echo --isl-weight 0 ;;
        both) ;;
        *) echo "error: --variants: $1 is not one of seam,isl,fsl,both" >&2; exit 2 ;;
    esac
}

one_run() {         # VARIANT SEED: train, infer, score; ablation.txt with the commands marks a finished run
    local run=$NAME-$1-$2 variant done_file commands
    variant=$(flags_of "$1")
    local place=(--dataset "$DATASET" "${PLACE[@]}" --exp "$EXP" --run "$run")
    # shellcheck disable=SC2206     # both are lists of words
    local train=(train_cam_voc.py "${place[@]}" --seed "$2" $variant "${EXTRA[@]}")
    local infer=(infer_cam.py "${place[@]}" --split "$SPLIT" --no-crf-seeds $INFER)
    local score=(eval.py --what cam "${place[@]}" --split "$SPLIT")
    done_file=$EXP/$run/ablation.txt
    commands=$(for words in train infer score; do declare -n command=$words; echo "python ${command[*]}"; done)
    if [ -e "$done_file" ]; then
        [ "$(cat "$done_file")" = "$commands" ] ||
            { echo "error: $done_file says that $run was made with other settings; give another --name" >&2; exit 2; }
        echo "$run is finished"
        return
    fi
    echo "$commands"
    [ -z "$DRY_RUN" ] || return 0
    "$PYTHON" "${train[@]}"
    "$PYTHON" "${infer[@]}"
    "$PYTHON" "${score[@]}"
    echo "$commands" > "$done_file"
}

VARIANTS=seam,isl,fsl,both SEEDS=1,2,3 NAME=ablation EXP=exp SPLIT=val INFER='' DRY_RUN='' DATASET='' PLACE=() EXTRA=()
while [ $# -gt 0 ]; do
    case $1 in
        --dataset|--seeds|--variants|--name|--exp|--split|--infer|--data-root|--lists)
            [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; } ;;&
        --dataset) DATASET=$2; shift 2 ;;
        --seeds) SEEDS=$2; shift 2 ;;
        --variants) VARIANTS=$2; shift 2 ;;
        --name) NAME=$2; shift 2 ;;
        --exp) EXP=$2; shift 2 ;;
        --split) SPLIT=$2; shift 2 ;;
        --infer) INFER=$2; shift 2 ;;
        --data-root|--lists) PLACE+=("$1" "$2"); shift 2 ;;
        --dry-run) DRY_RUN=yes; shift ;;
        --help|-h) usage; exit 0 ;;
        --isl-weight*|--fsl|--no-fsl|--seed|--seed=*|--run|--run=*)
            echo "error: ${1%%=*} is set by ablation.sh itself; see --help" >&2; exit 2 ;;
        *) EXTRA+=("$1"); shift ;;
    esac
done
[ -n "$DATASET" ] || { echo 'error: --dataset is needed; see --help' >&2; exit 2; }
for variant in ${VARIANTS//,/ }; do flags_of "$variant" > /dev/null; done
PYTHON=${PYTHON:-$(./setup_env.sh)}
for seed in ${SEEDS//,/ }; do       # all variants of a seed first, so that pairs are complete early
    for variant in ${VARIANTS//,/ }; do one_run "$variant" "$seed"; done
done
GROUPS_OF_RUNS=()
for variant in ${VARIANTS//,/ }; do GROUPS_OF_RUNS+=("$NAME-$variant-*"); done
[ -n "$DRY_RUN" ] || "$PYTHON" eval.py --table --dataset "$DATASET" "${PLACE[@]}" --exp "$EXP" --run "${GROUPS_OF_RUNS[@]}"
