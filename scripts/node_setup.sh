#!/usr/bin/env bash
# The project's environment on a rented node, from the committed lock. Safe to run again: done in well under a second
# when the environment of this lock is there.
#
# It lies at ~/.launcher/environments/HASH, so that an older lock's environment is never taken for it, and
# ~/.launcher/node-env points at the newest. LAUNCHER_NODE_ENV names an environment that is there already, such as one
# in the node's image: nothing is installed then, and one of another lock is refused.
set -euo pipefail
cd "$(dirname "$0")/.."

# The same as scripts/setup.sh writes into an environment that it has finished.
wanted=$(cat requirements.lock pyproject.toml | sha256sum | cut -d ' ' -f 1)
is_complete() { [ "$(cat "$1/.lock-installed" 2>/dev/null)" = "$wanted" ] && [ -x "$1/bin/python" ]; }

if [ -n "${LAUNCHER_NODE_ENV:-}" ]; then
    is_complete "$LAUNCHER_NODE_ENV" && exit 0
    echo "node_setup: LAUNCHER_NODE_ENV=$LAUNCHER_NODE_ENV is not the environment of this requirements.lock" >&2
    exit 3
fi

home=${LAUNCHER_HOME:-$HOME/.launcher}
environment=$home/environments/${wanted:0:16}
mkdir -p "$home/environments"
if ! is_complete "$environment"; then
    exec 9>"$environment.lock" && flock 9 # another job's set-up on this node
fi
if ! is_complete "$environment"; then
    export PATH=$HOME/.local/bin:$PATH # where SkyPilot has put uv
    if ! command -v uv >/dev/null; then
        python3 -m pip install --quiet --user --disable-pip-version-check 'uv>=0.9'
    fi
    source scripts/package_sources.sh
    # A torch for this node's driver, where the package index offers several.
    if command -v nvidia-smi >/dev/null; then export UV_TORCH_BACKEND=${UV_TORCH_BACKEND:-auto}; fi
    echo "node_setup: installing $(grep -c '==' requirements.lock) locked packages into $environment" >&2
    rm -rf "$environment"
    uv venv --quiet --python "${PYTHON:-3.11}" "$environment"
    uv pip install --quiet --python "$environment/bin/python" -r requirements.lock
    echo "$wanted" >"$environment/.lock-installed"
fi
ln -sfn "$environment" "$home/node-env"
