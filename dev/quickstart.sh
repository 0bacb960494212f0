#!/usr/bin/env bash
# From nothing to a trained, evaluated, pictured Axial-DeepLab on the embedded dataset: set-up where
# it is needed, then a few minutes on 2 CPU cores (a GPU is taken where there is one).
# Arguments change keys of the config: bash dev/quickstart.sh SOLVER.MAX_ITER 200
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case " $* " in
    *" -h "* | *" --help "*) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *" OUTPUT_DIR "*) fail "the quickstart writes to output/quickstart; OUTPUT_DIR belongs to tools/train_net.py." ;;
esac
CONFIG=configs/quickstart/synthetic.yaml
OUTPUT=output/quickstart
export DETECTRON2_DATASETS="$OUTPUT/datasets"

ensure_setup
started=$SECONDS

say "1/3 The embedded dataset"
"$PYTHON" -m axial_d2.data.synthetic --output "$DETECTRON2_DATASETS/synthetic_panoptic" \
    --images 800 --val-images 100 --size 128 256

say "2/3 Training and evaluation"
# Two processes of one thread are faster on two cores than one of two threads: most operations of
# this network are too small to share.
processes=$("$PYTHON" -c '
import os, torch
print(1 if torch.cuda.is_available() else min(2, len(os.sched_getaffinity(0))))')
"$PYTHON" tools/train_net.py --num-gpus "$processes" --config-file "$CONFIG" \
    OUTPUT_DIR "$OUTPUT" "$@"

say "3/3 Pictures"
"$PYTHON" tools/demo.py --config-file "$CONFIG" --dataset synthetic_panoptic_val --limit 16 \
    --output "$OUTPUT/pictures" --opts MODEL.WEIGHTS "$OUTPUT/model_final.pth" "$@" | tail -n 1

say ""
say "$((SECONDS - started)) s on $(uname -sm). Where to look:"
say "  $OUTPUT/results.json       all numbers, with each class"
say "  $OUTPUT/pictures/          image, truth and prediction side by side"
say "  $OUTPUT/model_final.pth    the trained model"
