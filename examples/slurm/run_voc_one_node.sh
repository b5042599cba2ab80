#!/usr/bin/env bash
# All stages on VOC 2012, on one node with several GPUs. Submit it from the repository:
#
#   DATA=/scratch/me sbatch examples/slurm/run_voc_one_node.sh [options of run_voc.sh]
#
# DATA is the folder with VOCdevkit/VOC2012, IMAGE (default hfpl.sif) the container; put the ImageNet weights into
# pretrained/. A job that ran out of time resumes when it is submitted again. The published batch sizes, 8 for CAM and
# affinity training and 10 for DeepLab, can be divided among two GPUs; with four, give --train_seg:batch-size 12.
#SBATCH --job-name=hfpl-voc
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=96G
#SBATCH --time=48:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail
: "${DATA:?set DATA to the folder that holds VOCdevkit}"
cd "${SLURM_SUBMIT_DIR:-.}"
exec apptainer run --nv --bind "$PWD" --bind "$DATA" "${IMAGE:-hfpl.sif}" \
    ./run_voc.sh --data-root "$DATA/VOCdevkit/VOC2012" --gpus "${SLURM_GPUS_ON_NODE:-1}" "$@"
