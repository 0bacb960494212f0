#!/usr/bin/env bash
# From nothing to a trained, evaluated, pictured Axial-DeepLab: set-up where it is needed, the
# embedded dataset, then a few minutes on 2 CPU cores (a GPU is taken where there is one).
#   bash dev/quickstart.sh [--config-file FILE] [KEY VALUE ...]
# Keys change the config: bash dev/quickstart.sh SOLVER.MAX_ITER 200. The config is
# configs/quickstart/synthetic.yaml if none is given; one of other datasets takes those. Paths in
# a config count from the repository's root.
HERE=$PWD
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case " $* " in
    *" -h "* | *" --help "*) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
CONFIG=configs/quickstart/synthetic.yaml
case "${1:-}" in
    --config-file)
        [ $# -ge 2 ] || fail "--config-file: expected the path of a config after it, got nothing."
        CONFIG=$2
        if [ "${CONFIG#/}" = "$CONFIG" ] && [ -f "$HERE/$CONFIG" ]; then CONFIG=$HERE/$CONFIG; fi
        shift 2 ;;
esac
for argument; do
    case "$argument" in
        --*) fail "unknown option $argument; expected --config-file FILE, then pairs of KEY VALUE." ;;
    esac
done

ensure_setup
started=$SECONDS

# Two processes of one thread are faster on two cores than one of two threads: most operations of an
# axial network are too small to share. Batch norm wants two pictures or more in each. One process
# remains for a ResNet (torch has no fast 3x3 convolution on one thread) and for SyncBN (GPUs only).
plan=$("$PYTHON" -W ignore -c '
import os, sys, torch, axial_d2
from axial_d2.engine import SetupError, load_config
try:
    cfg = load_config(sys.argv[1], sys.argv[2:])
except SetupError as error:
    sys.exit(f"error: {error}")
if not cfg.DATASETS.TEST:
    sys.exit("error: DATASETS.TEST: expected a dataset to evaluate and draw, got none")
batch, axial = cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.BACKBONE.NAME == "build_axial_resnet_backbone"
parts = (cfg.MODEL.AXIAL_RESNET, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD)
shared = axial and not torch.cuda.is_available() and "SyncBN" not in [part.NORM for part in parts]
cores = len(os.sched_getaffinity(0))
most = max(1, min(cores, batch // 2)) if shared else 1
processes = max(count for count in range(1, most + 1) if batch % count == 0)
print(cfg.OUTPUT_DIR)
print(cfg.DATASETS.TEST[0])
print(processes)
print(max(1, min(cores // processes, 4)))
print(any("synthetic_panoptic_" in name for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
' "$CONFIG" "$@")
{ read -r OUTPUT; read -r DATASET; read -r PROCESSES; read -r THREADS; read -r EMBEDDED; } <<<"$plan"

if [ "$EMBEDDED" = True ]; then
    say "1/3 The embedded dataset"
    export DETECTRON2_DATASETS=output/quickstart/datasets
    "$PYTHON" -m axial_d2.data.synthetic --output "$DETECTRON2_DATASETS/synthetic_panoptic" \
        --images 800 --val-images 100 --size 128 256
else
    say "1/3 The datasets of $CONFIG"
fi

say "2/3 Training and evaluation"
OMP_NUM_THREADS=$THREADS "$PYTHON" tools/train_net.py --num-gpus "$PROCESSES" --config-file "$CONFIG" "$@"

say "3/3 Pictures"
[ "$OUTPUT" != output/quickstart ] || rm -f output/quickstart/pictures/*.png  # an older model's
"$PYTHON" tools/demo.py --config-file "$CONFIG" --dataset "$DATASET" --limit 12 \
    --output "$OUTPUT/pictures" --opts "$@" MODEL.WEIGHTS "$OUTPUT/model_final.pth" | tail -n 1

say ""
say "$((SECONDS - started)) s on $(uname -sm). Where to look:"
say "  $OUTPUT/results.json       all numbers, with each class"
say "  $OUTPUT/pictures/          image, truth and prediction side by side"
say "  $OUTPUT/model_final.pth    the trained model"
