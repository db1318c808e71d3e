"""The vocabulary of tool-call data: what one example is, whatever format it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's full name (`mesen2.run`) and its arguments as JSON values."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ToolExample:
    """One instruction and the calls that answer it.

    `template` names the phrasing the instruction was made from (or its skeleton, where nobody knows the template):
    examples of one template always stay in one part of a split. `metadata` is kept and never trained on.
    """

    id: str
    instruction: str
    calls: tuple[ToolCall, ...]
    template: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def difficulty(self) -> str:
        """simple, medium or complex: one, two, or three and more calls."""
        return ("simple", "medium", "complex")[min(len(self.calls), 3) - 1]
