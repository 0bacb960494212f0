#!/usr/bin/env bash
# Makes .venv in the repository's root with everything that axial_d2 needs; run as often as you like.
# Where the active interpreter already imports torch and Detectron2, that one is used instead.
# AXIAL_PYTHON=/path/to/python names an interpreter other than the one on PATH.
# No compiler, no git, no GPU and no system library is needed.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Measured with no cache of pip's: 5.9 GB stay, 3 more are in use between download and installation.
# pip's cache takes 4 GB more, of which 3 stay there.
NEED_GB=9
NEED_WITH_CACHE_GB=13
export PIP_USER=0 PIP_PROGRESS_BAR=off
exec 3>&2  # a step's own output goes to the log
trap 'printf "\nInterrupted; bash dev/setup.sh goes on from here.\n" >&3; exit 130' INT TERM

# Two scripts started side by side: the second waits (where the system has flock).
lock() {
    command -v flock >/dev/null || return 0
    exec 9<dev/setup.sh
    flock -n 9 && return 0
    say "Another set-up is at work here; waiting for it."
    flock 9
}

# The interpreter to make .venv from: the active one where it fits, else any that does.
choose_base() {
    local candidate found="" unfit=""
    if [ -n "${AXIAL_PYTHON:-}" ]; then
        set -- "$AXIAL_PYTHON"
    else
        set -- python python3 python3.11 python3.12 python3.13
    fi
    for candidate; do
        probe "$candidate" || continue
        [ "$P_PREFIX" != "$VENV" ] || continue
        if [ "$P_FITS" != 1 ]; then
            found="$found $P_EXE ($P_VERSION)"
        elif ! "$P_EXE" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            unfit="$P_EXE"
        else
            BASE="$P_EXE"
            return 0
        fi
    done
    [ -z "$unfit" ] ||
        fail "$unfit has no venv module with pip (on Debian and Ubuntu: apt install python3-venv)."
    fail "Python 3.11, 3.12 or 3.13 is needed; found:${found:- none}. AXIAL_PYTHON=/path/to/python names one."
}

check_space() {
    local free have=0
    [ ! -d "$VENV" ] || have=$(du -sk "$VENV" | cut -f 1)
    free=$(df -Pk "$ROOT" | awk 'NR == 2 {print $4}')
    [ $((free + have)) -ge $((NEED_GB * 1024 * 1024)) ] ||
        fail "not enough disk space in $ROOT: $NEED_GB GB are needed, $((free / 1024 / 1024)) GB are free."
    if [ $((free + have)) -lt $((NEED_WITH_CACHE_GB * 1024 * 1024)) ]; then
        say "Little disk space: pip keeps no copy of what it downloads"
        export PIP_NO_CACHE_DIR=1
    fi
}

# Whether .venv runs, on a Python that fits; on the one of AXIAL_PYTHON where that is set.
venv_fits() {
    local asked=""
    [ -z "${AXIAL_PYTHON:-}" ] || ! probe "$AXIAL_PYTHON" || asked=$P_VERSION
    probe "$PYTHON" && [ "$P_FITS" = 1 ] && [ "${asked:-$P_VERSION}" = "$P_VERSION" ]
}

make_venv() {
    if venv_fits; then
        check_space
        say "Going on with .venv (Python $P_VERSION)"
        LOG="$VENV/setup.log"
    else
        [ ! -e "$VENV/pyvenv.cfg" ] || [ -e "$VENV/setup.log" ] || ! probe "$PYTHON" ||
            fail "$VENV is there already, with Python $P_VERSION and not made by this script; remove it and run this again."
        choose_base
        check_space
        say "Making .venv with $BASE ($P_VERSION)"
        [ ! -e "$VENV" ] || say "  replacing the .venv that is there: it does not run on that Python"
        "$BASE" -m venv --without-pip --clear "$VENV" || fail "$BASE -m venv $VENV failed."
        LOG="$VENV/setup.log"
    fi
    "$PYTHON" dev/environment.py repair >>"$LOG"
    "$PYTHON" -c 'import pip, importlib.metadata as m; m.version("pip")' 2>/dev/null ||
        step "adding pip" "$PYTHON" -m ensurepip
}

setup_venv() {
    if [ "$(cat "$VENV/setup.stamp" 2>/dev/null)" = "$(fingerprint)" ] && venv_fits; then
        say "Set-up is complete: .venv (Python $P_VERSION)"
        return 0
    fi
    local started=$SECONDS
    make_venv
    # pip unpacks through TMPDIR: the disk that was checked is the one that is used.
    export TMPDIR="$VENV/tmp"
    rm -rf "$TMPDIR"
    mkdir -p "$TMPDIR"
    grep -E '^(pip|setuptools|wheel|packaging)==' requirements.txt >"$TMPDIR/build.txt"
    # An opencv-python already here is kept; two OpenCVs overwrite each other's files.
    local leave='^$'
    [ -z "$("$PYTHON" dev/environment.py opencv | grep -v -x opencv-python-headless)" ] ||
        leave='^opencv-python-headless=='
    grep -v -E "$leave" requirements.txt >"$TMPDIR/requirements.txt"

    step "1/4 build tools" pip install -r "$TMPDIR/build.txt"
    step "2/4 torch and the libraries (about 3 GB to download)" \
        pip install --no-build-isolation -r "$TMPDIR/requirements.txt"
    step "3/4 Detectron2 0.5, as plain Python" \
        pip install --use-pep517 --no-deps --no-build-isolation -r requirements-detectron2.txt
    step "4/4 axial_d2, from this folder" pip install --no-deps --no-build-isolation -e .
    rm -rf "$TMPDIR"
    unset TMPDIR
    step "checking that it imports" "$PYTHON" -c 'import torch, torchvision, detectron2, cv2'
    fingerprint >"$VENV/setup.stamp"
    say "Set-up done in $((SECONDS - started)) s. To use it: . .venv/bin/activate"
}

setup_active() {
    local stamp now lacking
    stamp="$STATE/active.stamp"
    now="$PYTHON $(fingerprint) $(cksum <"$STATE/active.txt")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        say "Set-up is complete: the active $PYTHON ($P_VERSION)"
        return 0
    fi
    say "Using the active $PYTHON: it has torch and Detectron2, so no .venv is made"
    lacking=$("$PYTHON" dev/environment.py missing)
    if grep -q '^torch' <<<"$lacking"; then
        fail "$PYTHON lacks torchvision; install the one that matches its torch and run this again."
    fi
    [ -z "$lacking" ] || install_beside "$lacking"
    if ! "$PYTHON" -c 'import importlib.metadata as m; m.version("axial_d2")' 2>/dev/null; then
        install_axial_d2
    fi
    # Notes what is installed now.
    imports_both "$PYTHON" || fail "$PYTHON no longer imports torch and Detectron2; see $STATE/setup.log."
    printf '%s\n' "$PYTHON $(fingerprint) $(cksum <"$STATE/active.txt")" >"$stamp"
}

install_axial_d2() {
    local isolation=""
    LOG="$STATE/setup.log"
    mkdir -p "$STATE"
    # setuptools builds wheels by itself from 70.1 on; an older one is left as it is.
    ! "$PYTHON" -c 'import setuptools as s; assert tuple(map(int, s.__version__.split(".")[:2])) >= (70, 1)' \
        2>/dev/null || isolation=--no-build-isolation
    step "installing axial_d2 from this folder into $PYTHON" pip install --no-deps $isolation -e .
}

lock
choose_python
"setup_$KIND"
