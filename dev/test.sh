#!/usr/bin/env bash
# Runs the tests, after the set-up where that is needed. Arguments go to pytest:
#   bash dev/test.sh tests/panoptic -k merging
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ensure_setup
ensure_dev_tools
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(threads)}"
exec "$PYTHON" -m pytest "$@"
