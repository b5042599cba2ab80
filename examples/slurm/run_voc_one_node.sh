#!/usr/bin/env bash
# All stages on VOC 2012, on one node with several GPUs. Submit it in the checkout of the code:
#
#   DATA=/scratch/me sbatch examples/slurm/run_voc_one_node.sh [options of run_voc.sh]
#
# DATA holds VOCdevkit/VOC2012 and IMAGE (hfpl.sif) is the container; the weights lie in pretrained/. A job that ran out
# of time resumes when it is submitted again.
#SBATCH --job-name=hfpl-voc
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=96G
#SBATCH --time=48:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail
: "${DATA:?set DATA to the folder that holds VOCdevkit}"
cd "${SLURM_SUBMIT_DIR:-.}"
exec apptainer run --nv --bind "$PWD" --bind "$DATA" "${IMAGE:-hfpl.sif}" \
    ./run_voc.sh --data-root "$DATA/VOCdevkit/VOC2012" --gpus "${SLURM_GPUS_ON_NODE:-1}" "$@"
