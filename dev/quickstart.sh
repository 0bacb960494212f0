#!/usr/bin/env bash
# From nothing to a trained, evaluated, pictured Axial-DeepLab: set-up where it is needed, the
# embedded dataset, then a few minutes on 2 CPU cores (a GPU is taken where there is one).
#   bash dev/quickstart.sh [--config-file FILE] [KEY VALUE ...]
# Keys change the config: bash dev/quickstart.sh SOLVER.MAX_ITER 200. The config is
# configs/quickstart/synthetic.yaml if none is given; one of other datasets takes those.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case " $* " in
    *" -h "* | *" --help "*) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
CONFIG=configs/quickstart/synthetic.yaml
case "${1:-}" in
    --config-file)
        [ $# -ge 2 ] || fail "--config-file: expected the path of a config after it, got nothing."
        CONFIG=$2
        shift 2 ;;
    -*) fail "unknown option $1; expected --config-file FILE, then pairs of KEY VALUE." ;;
esac

ensure_setup
started=$SECONDS

# Two processes of one thread are faster on two cores than one of two threads: most operations of
# these networks are too small to share. Batch norm wants two pictures or more in each.
plan=$("$PYTHON" -W ignore -c '
import sys, torch, axial_d2
from axial_d2.engine import SetupError, load_config
try:
    cfg = load_config(sys.argv[1], sys.argv[2:])
except SetupError as error:
    sys.exit(f"error: {error}")
if not cfg.DATASETS.TEST:
    sys.exit("error: DATASETS.TEST: expected a dataset to evaluate and draw, got none")
batch = cfg.SOLVER.IMS_PER_BATCH
most = 1 if torch.cuda.is_available() else max(1, min(torch.get_num_threads(), batch // 2))
print(cfg.OUTPUT_DIR)
print(cfg.DATASETS.TEST[0])
print(max(count for count in range(1, most + 1) if batch % count == 0))
print(any(name.startswith("synthetic_panoptic_") for name in cfg.DATASETS.TRAIN))
' "$CONFIG" "$@")
{ read -r OUTPUT; read -r DATASET; read -r PROCESSES; read -r EMBEDDED; } <<<"$plan"

if [ "$EMBEDDED" = True ]; then
    say "1/3 The embedded dataset"
    export DETECTRON2_DATASETS=output/quickstart/datasets
    "$PYTHON" -m axial_d2.data.synthetic --output "$DETECTRON2_DATASETS/synthetic_panoptic" \
        --images 800 --val-images 100 --size 128 256
else
    say "1/3 The datasets of $CONFIG"
fi

say "2/3 Training and evaluation"
"$PYTHON" tools/train_net.py --num-gpus "$PROCESSES" --config-file "$CONFIG" "$@"

say "3/3 Pictures"
"$PYTHON" tools/demo.py --config-file "$CONFIG" --dataset "$DATASET" --limit 12 \
    --output "$OUTPUT/pictures" --opts "$@" MODEL.WEIGHTS "$OUTPUT/model_final.pth" | tail -n 1

say ""
say "$((SECONDS - started)) s on $(uname -sm). Where to look:"
say "  $OUTPUT/results.json       all numbers, with each class"
say "  $OUTPUT/pictures/          image, truth and prediction side by side"
say "  $OUTPUT/model_final.pth    the trained model"
