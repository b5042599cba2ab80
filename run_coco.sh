#!/usr/bin/env bash
# Image-level labels of MS COCO 2014 in, segmentation model and its scores out. ./run_coco.sh --help
cd "$(dirname "$0")"
source tool/pipeline.sh
DATASET=coco RUN=coco TRAIN=train2014 VAL=val2014 SCORE=train2014 CAM_SCRIPT=train_cam_coco.py
ALL_STAGES=train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report
pipeline "$@"
