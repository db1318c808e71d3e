"""All rows, and the page made of them (docs/seeds-recomputed.md)."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from launcher.seeds.claims import Claim, shipped_claims
from launcher.seeds.expression import Interval
from launcher.seeds.logic import LOGIC
from launcher.seeds.verdict import Result, Row, Verdict, arithmetic, judge

EXACT_DIGITS, ESTIMATED_DIGITS = 4, 3
COMMAND = "python -m launcher.seeds > docs/seeds-recomputed.md"


def seed_rows(claims: Iterable[Claim] | None = None) -> list[Row]:
    """Every claim with its result and verdict, in the order of the claims file."""
    return [judge(claim, recompute(claim)) for claim in (shipped_claims() if claims is None else claims)]


def recompute(claim: Claim) -> Result:
    """What comes out for one claim, by the way it names."""
    if claim.recompute is not None:
        return arithmetic(claim)
    if claim.logic is not None:
        return LOGIC[claim.logic]()
    assert claim.planner is not None
    from launcher.seeds.planner import compute

    return compute(claim.planner)


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many claims are right, wrong, and not to be checked."""
    number = Counter(row.verdict for row in rows)
    return {verdict.value: number[verdict] for verdict in Verdict}


def claimed_text(row: Row) -> str:
    """What the document says, with its unit."""
    return "–" if row.claim.claimed is None else f"{interval_text(row.claim.claimed)} {row.claim.unit}"


def result_text(row: Row) -> str:
    """What was recomputed: one number, `low to high`, or `p10 / p50 / p90`."""
    result = row.result
    if result.low is None or result.high is None:
        return "–"
    if result.median is None:
        return f"{interval_text((result.low, result.high))} {row.claim.unit}"
    parts = [number_text(each, ESTIMATED_DIGITS) for each in (result.low, result.median, result.high)]
    fits = f" ({result.fits})" if result.fits else ""
    return f"{' / '.join(parts)} {row.claim.unit}{fits}"


def interval_text(interval: Interval) -> str:
    """`12` or `12 to 16`."""
    low, high = (number_text(end) for end in interval)
    return low if low == high else f"{low} to {high}"


def number_text(value: float, digits: int = EXACT_DIGITS) -> str:
    """So many digits that say something: 0.0036, 14.05, 122.9, and 7,143."""
    if abs(value) >= 1000 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def markdown(rows: Sequence[Row]) -> str:
    """The page."""
    number = counts(rows)
    head = (
        f"{len(rows)} claims: {number['right']} right, {number['wrong']} wrong, {number['cannot be checked']} that "
        "cannot be checked. A verdict is computed from the numbers that the document itself states, and from what this "
        "planner gets; what a document does not state is named in the row. Where three figures stand, they are the "
        "10th, 50th and 90th percentile (of memory: lower bound, expected peak, upper bound, and whether it fits the "
        "card, training on answers of 60 tokens). Rented prices are those of the shipped catalogs; AWS is at the "
        "document's own price."
    )
    lines = [
        "# The seed documents' figures, recomputed",
        "",
        f"Written by `{COMMAND}`; a test keeps it current. `launcher plan --seeds [--json]` prints the same.",
        "",
        *textwrap.wrap(head, 120),
    ]
    for title, group in groupby(rows, key=lambda row: row.claim.table):
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *_markdown_table(list(group))]
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Row]) -> list[str]:
    head = ["| where | claim | claimed | recomputed | verdict | why |", "|---|---|---|---|---|---|"]
    return head + [f"| {' | '.join(_cells(row))} |" for row in rows]


def _cells(row: Row) -> list[str]:
    claim = row.claim
    why = [row.because, *(f"assumed: {line}" for line in claim.assumptions), *(f"source: {s}" for s in claim.sources)]
    verdict = f"**{row.verdict}**" if row.verdict == Verdict.WRONG else row.verdict.value
    cells = [
        f"{claim.document}, {claim.section}",
        claim.says,
        claimed_text(row),
        result_text(row),
        verdict,
        "; ".join(why),
    ]
    return [cell.replace("|", "\\|") for cell in cells]
