#!/usr/bin/env bash
# Image-level labels of PASCAL VOC 2012 in, segmentation model and its scores out. ./run_voc.sh --help
cd "$(dirname "$0")"
source tool/pipeline.sh
DATASET=voc12 RUN=voc12 TRAIN=train_aug VAL=val SCORE=train CAM_SCRIPT=train_cam_voc.py
ALL_STAGES=train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report
pipeline "$@"
