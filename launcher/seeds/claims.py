"""The claims file: what the seed documents say, with the numbers they say it from (`launcher/assets/seed_claims.yaml`).

Whoever adds a claim writes what the document states; verdicts are computed, never written.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from launcher.models import ASSETS
from launcher.seeds.expression import Interval
from launcher.yamlfile import read_mapping

CLAIMS_FILE = ASSETS / "seed_claims.yaml"
DEFAULT_TOLERANCE = 0.02

Compare = Literal["equal", "inside", "covers", "at_most", "at_least", "interval", "memory"]


def _as_interval(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


IntervalField = Annotated[Interval, BeforeValidator(_as_interval)]


class Claim(BaseModel):
    """One figure of one document, and how to compute it again; fields are explained at the head of the claims file."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str
    table: str
    document: str
    section: str
    says: str
    unit: str
    claimed: IntervalField | None
    because: str
    compare: Compare = "equal"
    tolerance: float = Field(default=DEFAULT_TOLERANCE, ge=0)
    given: dict[str, IntervalField] = {}
    assumed: dict[str, IntervalField] = {}
    derived: dict[str, str] = {}
    recompute: str | None = None
    planner: dict[str, Any] | None = None
    logic: str | None = None
    assumptions: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    unchecked: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Claim:
        if sum(way is not None for way in (self.recompute, self.planner, self.logic)) != 1:
            raise ValueError("exactly one of recompute, planner and logic is needed")
        if self.claimed is None and self.unchecked is None:
            raise ValueError("a claim without a figure needs a reason in unchecked")
        return self


def load_claims(path: Path = CLAIMS_FILE) -> tuple[Claim, ...]:
    """Every claim, in the order of the file.

    Raises:
        BadInput: the file cannot be read.
        ValueError: a claim is incomplete, or an id stands twice.
    """
    claims = tuple(Claim.model_validate(entry) for entry in read_mapping(path)["claims"])
    ids = [claim.id for claim in claims]
    twice = {each for each in ids if ids.count(each) > 1}
    if twice:
        raise ValueError(f"{path}: claims of the same id: {', '.join(sorted(twice))}")
    return claims


@cache
def shipped_claims() -> tuple[Claim, ...]:
    """The shipped claims, read once."""
    return load_claims()
