"""How the emulated clouds of `launcher sandbox` are reached: by the addresses in the file that it writes."""

from __future__ import annotations

import shlex

from launcher.cloud.fetch import SourceFailed
from launcher.cost.ledger import state_folder
from launcher.cost.offer import Provider

SANDBOX_KEY = "sandbox"  # of no account anywhere
ENVIRONMENT_FILE = "env"


def sandbox_url(provider: Provider) -> str:
    """The address that stands for a provider: `export LAUNCHER_VAST_URL=...` in `$LAUNCHER_HOME/sandbox/env`.

    Raises:
        SourceFailed: there is none, so the sandbox is not up.
    """
    try:
        content = (state_folder() / ENVIRONMENT_FILE).read_text(encoding="utf-8")
        words = shlex.split(content, comments=True)
    except (OSError, ValueError):
        words = []
    prefix = f"LAUNCHER_{provider.upper()}_URL="
    for word in words:
        if word.startswith(prefix):
            return word.removeprefix(prefix)
    raise SourceFailed("the sandbox is not up; start it with `launcher sandbox up`")
