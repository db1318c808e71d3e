"""Any JSON object of a run as facts and a table, whatever its shape: a split manifest, what the audit counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_LIST = 200  # characters; a longer list is shown as its length
HASH_DIGITS = 12


@dataclass(frozen=True)
class FactTable:
    """Nested JSON as facts (name, value), and as a table where it holds several objects of one shape."""

    facts: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def fact_table(content: Mapping[str, Any]) -> FactTable:
    """Lay out a JSON object whatever its shape: lists become their length, long hashes their first digits."""
    table = next((v for v in content.values() if _is_table(v)), content if _is_table(content) else None)
    facts = _facts({key: value for key, value in content.items() if value is not table}) if table is not content else []
    if table is None:
        return FactTable(tuple(facts), (), ())
    columns = tuple(dict.fromkeys(key for row in table.values() for key in row))
    rows = tuple((name, tuple(_cell(row.get(key)) for key in columns)) for name, row in table.items())
    return FactTable(tuple(facts), tuple(_words(column) for column in columns), tuple((_words(n), r) for n, r in rows))


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 1
        and all(isinstance(row, Mapping) and row for row in value.values())
    )


def _facts(content: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{above}{_words(str(key))}"
        is_deep = isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values())
        facts += _facts(value, f"{name}: ") if is_deep else [(name, _short(value))]
    return facts


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else _short(value)


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = ", ".join(map(str, value))
        return (text or "none") if len(text) <= LONGEST_LIST else f"{len(value)} in all"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    text = str(value)
    return f"{text[:HASH_DIGITS]}…" if len(text) >= 40 and all(c in "0123456789abcdef" for c in text) else text
