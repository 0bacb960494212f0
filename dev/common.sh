# Shared by the scripts of dev/ (sourced, never run): messages, and the one choice of interpreter.
#
# PYTHON becomes the interpreter that all scripts use, KIND says which one it is:
#   active   the `python` (or `python3`) on PATH, where it already imports torch and Detectron2
#   venv     otherwise: .venv in the repository's root, which dev/setup.sh makes
# AXIAL_PYTHON=/path/to/python stands in for the one on PATH.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$ROOT"
VENV="$ROOT/.venv"
STATE="$ROOT/output/setup"  # what the set-up notes where it makes no .venv

say() { printf '%s\n' "$*"; }
fail() { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

# probe COMMAND: sets P_VERSION, P_FITS (1 = Python 3.11 to 3.13), P_HAS (1 = torch and Detectron2
# are there), P_PREFIX, P_EXE; fails where the command is no working Python.
# Runs on any Python; -c puts the current folder on sys.path, so a bare folder does not count.
probe() {
    local answer
    answer=$("$1" -c '
import os, sys
fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
has = False
if fits:
    from importlib.util import find_spec
    has = all(s and s.origin for s in map(find_spec, ["torch", "detectron2"]))
print("%d.%d.%d" % sys.version_info[:3])
print(int(fits))
print(int(has))
print(os.path.realpath(sys.prefix))
print(sys.executable)
' 2>/dev/null </dev/null) || return 1
    { read -r P_VERSION; read -r P_FITS; read -r P_HAS; read -r P_PREFIX; read -r P_EXE; } <<<"$answer"
}

# Whether the interpreter $1 really imports both; a second or more, so the answer is kept until
# something is installed there or removed.
imports_both() {
    local print note="$STATE/active.txt"
    print=$("$1" dev/environment.py fingerprint 2>/dev/null </dev/null) || return 1
    if [ -f "$note" ] && [ "$(sed 1d "$note")" = "$print" ]; then
        [ "$(head -n 1 "$note")" = yes ]
        return
    fi
    local answer=yes reason
    if ! reason=$("$1" -c 'import torch, detectron2' 2>&1 </dev/null); then
        answer=no
        say "$1 has torch and Detectron2 but does not import them ($(tail -n 1 <<<"$reason")); using .venv" >&2
    fi
    mkdir -p "$STATE"
    printf '%s\n%s\n' "$answer" "$print" >"$note"
    [ "$answer" = yes ]
}

choose_python() {
    local candidate
    VENV=$(cd "$VENV" 2>/dev/null && pwd -P || printf '%s' "$VENV")
    KIND=venv
    PYTHON="$VENV/bin/python"
    if [ -n "${AXIAL_PYTHON:-}" ]; then
        set -- "$AXIAL_PYTHON"
        probe "$1" || fail "AXIAL_PYTHON=$1 is not a Python that runs."
    else
        set -- python python3
    fi
    for candidate; do
        probe "$candidate" || continue
        [ "$P_PREFIX" != "$VENV" ] || return 0
        if [ "$P_HAS" = 1 ] && imports_both "$P_EXE"; then
            KIND=active
            PYTHON="$P_EXE"
            # Another clone may be installed there: what runs from here is this one.
            export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
            return 0
        fi
    done
}

# Changes with the requirement files, and where the clone is moved (the install points into it).
fingerprint() {
    printf '%s %s' "$(cat setup.py requirements.txt requirements-detectron2.txt | cksum)" "$ROOT"
}

# step MESSAGE COMMAND...: runs it with its output in $LOG; on failure shows the log's end and
# one line that names the cause.
step() {
    local message=$1
    shift
    say "  $message"
    printf '\n== %s\n' "$*" >>"$LOG"
    local from
    from=$(wc -l <"$LOG")
    "$@" >>"$LOG" 2>&1 </dev/null && return 0
    local cause="see $LOG"
    local part
    part=$(tail -n "+$from" "$LOG")
    printf -- '--- the last lines of %s\n' "$LOG" >&2
    tail -n 12 <<<"$part" >&2
    printf -- '---\n' >&2
    case $part in
        *"No space left on device"* | *"Disk quota exceeded"*)
            cause="the disk is full (${NEED_GB:-1} GB are needed); make room and run this again" ;;
        *externally-managed-environment*)
            cause="$PYTHON belongs to the system, which forbids pip; activate a virtual or conda environment" ;;
        *"Failed to establish a new connection"* | *"Temporary failure in name resolution"* | \
            *"Max retries exceeded"* | *"Network is unreachable"* | *"timed out"* | *ProxyError* | \
            *"Connection reset"* | *SSLError* | *ConnectionError* | *IncompleteRead*)
            cause="no network, or the package index cannot be reached (see pip config list); run this again to go on" ;;
        *"No matching distribution found"*)
            cause="the package index lacks a version that is needed ($(grep -o 'No matching distribution found for .*' <<<"$part" | head -n 1))" ;;
        *"Permission denied"*)
            cause="no permission to write there" ;;
    esac
    fail "$message failed: $cause."
}

pip() { "$PYTHON" -m pip --disable-pip-version-check --no-input "$@"; }

# The set-up where it is needed, then PYTHON.
ensure_setup() {
    bash dev/setup.sh
    choose_python
}

# The pinned tools for tests and lint; in an active environment only those that are missing there.
ensure_dev_tools() {
    if [ "$KIND" = venv ]; then
        local now
        now=$(cksum <requirements-dev.txt)
        [ "$(cat "$VENV/dev-tools.stamp" 2>/dev/null)" != "$now" ] || return 0
        LOG="$VENV/setup.log"
        step "installing the tools for tests and lint" pip install -r requirements-dev.txt
        printf '%s\n' "$now" >"$VENV/dev-tools.stamp"
    else
        local tools
        tools=$("$PYTHON" dev/environment.py missing-dev)
        [ -z "$tools" ] || install_beside "$tools"
    fi
}

# The number of threads for torch: small operations on many cores are slower than on a few.
threads() {
    local cores
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
    printf '%s' "$((cores < 4 ? cores : 4))"
}

# Adds requirements (one a line) to the active environment and changes nothing that is there.
install_beside() {
    LOG="$STATE/setup.log"
    mkdir -p "$STATE"
    "$PYTHON" -m pip --version >/dev/null 2>&1 ||
        fail "$PYTHON has no pip, and lacks: $(tr '\n' ' ' <<<"$1"); install these there and run this again."
    "$PYTHON" dev/environment.py constraints >"$STATE/constraints.txt"
    printf '%s\n' "$1" >"$STATE/missing.txt"
    step "installing what $PYTHON lacks: $(tr '\n' ' ' <<<"$1")" \
        pip install -c "$STATE/constraints.txt" -r "$STATE/missing.txt"
}
