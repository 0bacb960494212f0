#!/usr/bin/env bash
# Lint, format and types (settings in pyproject.toml), after the set-up where that is needed.
# `bash dev/lint.sh --fix` first repairs what ruff can.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
    "" | --fix) ;;
    *) fail "dev/lint.sh knows one argument, --fix, not '$1'." ;;
esac
ensure_setup
ensure_dev_tools

if [ "${1:-}" = --fix ]; then
    "$PYTHON" -m ruff check --fix --quiet . || true
    "$PYTHON" -m ruff format --quiet .
fi
failed=""
"$PYTHON" -m ruff check . || failed="$failed lint"
"$PYTHON" -m ruff format --check . || failed="$failed format"
"$PYTHON" -m mypy || failed="$failed types"
[ -z "$failed" ] || fail "failed:$failed."
