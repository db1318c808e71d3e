#!/usr/bin/env bash
# Set up .venv from the committed lock. Safe to run again: does nothing when the lock has not changed.
#
# uv does the installing and reads the same package indexes, wheel folders and certificate as the user's pip.
# For a GPU build of torch other than the index's default, set UV_TORCH_BACKEND (see uv's documentation).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: Python 3.11 or newer is needed; '$python' is not. Install it, or name one: PYTHON=/path/to/python make setup" >&2
    exit 1
fi

stamp=.venv/.lock-installed
wanted=$(cat requirements.lock pyproject.toml | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [ -x .venv/bin/launcher ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "setup: .venv is up to date"
    exit 0
fi

if [ ! -x .venv/bin/python ]; then
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

source scripts/package_sources.sh
echo "setup: installing $(grep -c '==' requirements.lock) locked packages into .venv (a few minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
.venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --editable .

echo "$wanted" >"$stamp"
echo "setup: done; .venv/bin/launcher and .venv/bin/sky are ready"
