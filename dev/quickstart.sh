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

plan=$("$PYTHON" -W ignore dev/quickstart_plan.py "$CONFIG" "$@")
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
