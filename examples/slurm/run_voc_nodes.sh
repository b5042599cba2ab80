#!/usr/bin/env bash
# All stages on VOC 2012, on several nodes, one process per GPU. Submit it from the repository:
#
#   sbatch examples/slurm/run_voc_nodes.sh [options of run_voc.sh]
#
# Adapt the lines below to your cluster. exp/ and the data must be on a file system that all nodes share. The published
# batch sizes, 8 for CAM and affinity training and 10 for DeepLab, can be divided among two GPUs in total. For eight, set
# --gpus-per-node=4 and GPUS_PER_NODE=4, and give --train_seg:batch-size 16.
#SBATCH --job-name=hfpl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=hfpl-%j.log
set -euo pipefail
GPUS_PER_NODE=${GPUS_PER_NODE:-1}

export PYTHON=${PYTHON:-$(./setup_env.sh)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((20000 + SLURM_JOB_ID % 20000))
# torchrun on each node; a killed worker is restarted up to three times, and training resumes from its last checkpoint.
launcher="srun --kill-on-bad-exit=1 $PYTHON -m lib.process.launch --nnodes=$SLURM_NNODES --nproc-per-node=$GPUS_PER_NODE
    --max-restarts=3 --rdzv-id=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0} --rdzv-backend=c10d
    --rdzv-endpoint=$head_node:$port --"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1     # restarted workers must not find the addresses of dead ones

./run_voc.sh --launcher "$launcher" "$@" &
run=$!

# Five minutes before the time limit (USR1) and at preemption (TERM), the processes save and exit with status 75; then
# the job is requeued and runs the same commands again, which resume.
trap 'kill -TERM "$run"' USR1 TERM
status=129
while [ "$status" -gt 128 ]; do         # a signal ends the wait, not the run
    status=0
    wait "$run" || status=$?
done
[ "$status" != 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
