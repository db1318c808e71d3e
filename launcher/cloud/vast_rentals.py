"""What is rented at vast.ai: its instances API, as vastai-sdk 1.9 asks it (`vastai/api/instances.py`)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from launcher.cloud.fetch import SourceFailed, fetch_json
from launcher.cloud.rented import MachineStatus, Rented, count, entries, identifier, text
from launcher.cost.offer import positive_number

PAGE_SIZE = 25  # what the SDK asks for
MOST_PAGES = 400
# `actual_status`: SkyPilot's table (`sky/provision/vast/instance.py`), and the word for one that is not loading yet.
_STATUS = {
    "created": MachineStatus.CREATING,
    "loading": MachineStatus.CREATING,
    "running": MachineStatus.RUNNING,
    "exited": MachineStatus.STOPPED,
    "stopped": MachineStatus.STOPPED,
}


def list_vast(key: str, url: str, timeout_s: float) -> list[Rented]:
    """Every instance of the account, over all pages.

    Raises:
        SourceFailed: no usable answer to one of the questions.
    """
    found: list[Rented] = []
    question = {"select_filters": "{}", "order_by": json.dumps([{"col": "id", "dir": "asc"}]), "limit": str(PAGE_SIZE)}
    for _ in range(MOST_PAGES):
        answer = fetch_json(f"{url}/api/v1/instances/?{urlencode(question)}", timeout_s=timeout_s, key=key)
        found += [_rented(entry) for entry in entries(answer.get("instances"), "instances")]
        token = answer.get("next_token")
        if not token:
            return found
        question["after_token"] = token if isinstance(token, str) else json.dumps(token)
    raise SourceFailed(f"the list of instances does not end after {MOST_PAGES} pages")


def terminate_vast(key: str, url: str, timeout_s: float, instance_id: str) -> None:
    """Destroy an instance and its disk.

    Raises:
        SourceFailed: the provider did not say that it does.
    """
    address = f"{url}/api/v0/instances/{quote(instance_id, safe='')}/"
    answer = fetch_json(address, timeout_s=timeout_s, key=key, body={}, method="DELETE")
    if answer.get("success") is not True:
        raise SourceFailed("the request to destroy was refused")


def balance_vast(key: str, url: str, timeout_s: float) -> float | None:
    """Dollars of credit left on the account (`vastai show user`: `credit`).

    Raises:
        SourceFailed: no usable answer.
    """
    answer = fetch_json(f"{url}/api/v0/users/current/", timeout_s=timeout_s, key=key)
    credit = answer.get("credit")
    return float(credit) if isinstance(credit, int | float) and not isinstance(credit, bool) else None


def _rented(entry: dict[str, Any]) -> Rented:
    word = entry.get("actual_status")
    return Rented(
        provider="vast",
        id=identifier(entry),
        name=text(entry.get("label")) or "",
        status=_STATUS.get(word.lower(), MachineStatus.UNKNOWN) if isinstance(word, str) else _before_status(entry),
        gpu=text(entry.get("gpu_name")),
        gpus=count(entry.get("num_gpus")),
        usd_per_hour=positive_number(entry.get("dph_total")),
        created_at=positive_number(entry.get("start_date")),
        ip=text(entry.get("public_ipaddr")),
    )


def _before_status(entry: dict[str, Any]) -> MachineStatus:
    """A machine that was just rented has no status yet, only what it is meant to become."""
    return MachineStatus.CREATING if entry.get("intended_status") == "running" else MachineStatus.UNKNOWN
