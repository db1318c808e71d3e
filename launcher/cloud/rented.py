"""What a provider's own list says of one machine, and how to read such lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from launcher.cloud.fetch import SourceFailed
from launcher.cost.offer import Provider


class MachineStatus(StrEnum):
    """What a machine does. All but `gone` are there, and billed for all we know.

    stopped: it is kept but does not run, as a preempted one may be; its disk is billed at the least. unknown: the
    provider uses a word that is not in our tables, or none.
    """

    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Rented:
    """One machine on a provider's list; None where the list does not say.

    usd_per_hour: of the whole machine with its disk, as the list tells it. created_at: seconds since the epoch, by the
    provider's clock.
    """

    provider: Provider
    id: str
    name: str
    status: MachineStatus
    gpu: str | None = None
    gpus: int | None = None
    usd_per_hour: float | None = None
    created_at: float | None = None
    ip: str | None = None


def entries(value: Any, what: str) -> Iterable[dict[str, Any]]:
    """The members of a list in an answer; a list that cannot be read must not be taken for an empty one.

    Raises:
        SourceFailed: it is no list of objects.
    """
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise SourceFailed(f"the answer holds no list of {what}")
    return value


def identifier(entry: dict[str, Any]) -> str:
    """The id of a machine, without which it could not be ended.

    Raises:
        SourceFailed: it has none.
    """
    value = entry.get("id")
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise SourceFailed("the list holds a machine without an id")
    return str(value)


def text(value: Any) -> str | None:
    """A text that is not empty, or None."""
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """A whole number above zero, or None."""
    return value if type(value) is int and value > 0 else None
