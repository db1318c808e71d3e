#!/usr/bin/env bash
# Resolve pyproject.toml into requirements.lock, with the user's own package sources, none of which is written down.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/package_sources.sh
.venv/bin/uv pip compile pyproject.toml --all-extras --python-version 3.11 \
    --no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements.lock
# A local build of torch (`+cpu`) must not be asked of users: the plain version matches it too.
sed -i.old -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' requirements.lock && rm -f requirements.lock.old
