"""How the emulated clouds of `launcher sandbox` are reached: by the address that it wrote down when it came up."""

from __future__ import annotations

import json

from launcher.cloud.fetch import SourceFailed
from launcher.cost.ledger import state_folder
from launcher.cost.offer import Provider

SANDBOX_KEY = "sandbox"  # of no account anywhere
RUNNING_FILE = "running.json"


def sandbox_url(provider: Provider) -> str:
    """The address that stands for a provider, below the `url` in `$LAUNCHER_HOME/sandbox/running.json`.

    Raises:
        SourceFailed: there is none, so the sandbox is not up.
    """
    try:
        url = json.loads((state_folder() / RUNNING_FILE).read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        url = None
    if not isinstance(url, str) or not url:
        raise SourceFailed("the sandbox is not up; start it with `launcher sandbox up`")
    return f"{url}/{provider}"
