#!/usr/bin/env bash
# Runs a Python program of this project on a rented node: scripts/node_run.sh -m ray_jobs.specialists JOB...
# Beside it: the heartbeat, which ends a run that hangs, and the deadman, which ends the node at its deadline.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${LAUNCHER_NODE_ENV:-${LAUNCHER_HOME:-$HOME/.launcher}/node-env}/bin/python
export PYTHONPATH=$PWD
# SkyPilot's Ray sets the first for every job, and torch would use one core. Its Ray is not ours: we start our own.
unset OMP_NUM_THREADS RAY_ADDRESS
# An empty key is no key; a library that finds one in the environment takes it.
for name in HF_TOKEN WANDB_API_KEY; do
    if [ -z "${!name:-}" ]; then unset "$name"; fi
done

"$python" -m launcher.node.deadman --hours "$LAUNCHER_MAX_HOURS" ${LAUNCHER_TEARDOWN:+--teardown "$LAUNCHER_TEARDOWN"}
"$python" -m launcher.node.heartbeat --while-pid $$ &
exec "$python" "$@" # under the process id that the heartbeat watches
