"""The user's settings: `$LAUNCHER_HOME/settings.yaml`, which hold for every run. Without the file, the defaults do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from launcher.addresses import Address, mask, parse_address
from launcher.cost.ledger import launcher_home
from launcher.cost.offer import RENTED
from launcher.errors import BadInput
from launcher.faults import fault_lines
from launcher.jobparts import Provider, Section, refuse
from launcher.units import Usd
from launcher.yamlfile import read_mapping

FILE_NAME = "settings.yaml"
PRICE_TOLERANCE = 0.10


def _addresses(value: Any) -> Any:
    """Addresses that can be read; a fault never shows the address, which may be a secret as a whole."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ValueError("a list of addresses is needed (docs/settings.md)")
    refuse(_address_faults(entries))
    return tuple(entries)


def _address_faults(entries: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, str):
            yield f"{position}: text is needed; put the address in quotes"
            continue
        try:
            parse_address(entry)
        except ValueError as fault:
            yield f"{position}: {mask(entry)}: {fault}"
        if entry in entries[:position]:
            yield f"{position}: {mask(entry)}: stands there twice"


def _some_providers(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"one or more of {', '.join(RENTED)} are needed, each once")
    return names


class Settings(Section):
    """What holds for every run.

    max_usd_per_month: dollars that all rentals of a calendar month may cost, in the user's local time. max_usd_at_once:
    dollars that everything rented at one moment may come to, each rental at its worst case. notify: where notices go.
    price_tolerance: by what share the offer really taken may be dearer than the planned one. providers: who is asked
    where a command names nobody.
    """

    max_usd_per_month: Usd | None = None
    max_usd_at_once: Usd | None = None
    notify: Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_addresses)] = ()
    price_tolerance: Annotated[float, Field(ge=0, le=1)] = PRICE_TOLERANCE
    providers: Annotated[tuple[Provider, ...], Field(strict=False), AfterValidator(_some_providers)] = (
        *("vast", "lambda", "runpod"),
    )

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        month, at_once = self.max_usd_per_month, self.max_usd_at_once
        if month is not None and at_once is not None and at_once > month:
            refuse([f"max_usd_at_once: {at_once:g}: above max_usd_per_month {month:g}, so it limits nothing"])
        return self

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where notices go, read."""
        return tuple(parse_address(text) for text in self.notify)


@dataclass(frozen=True)
class InForce:
    """One setting as it holds now, and where it comes from; addresses without their secrets."""

    name: str
    value: Any
    source: Literal["file", "default"]


def settings_file() -> Path:
    """Where the settings lie."""
    return launcher_home() / FILE_NAME


def load_settings(path: Path | None = None) -> Settings:
    """The settings in force: those of the file, and the defaults of everything it leaves out.

    Raises:
        BadInput: the file is there and is wrong; every fault at once, one line each.
    """
    path = path or settings_file()
    if not path.exists():
        return Settings()
    try:
        return Settings.model_validate(read_mapping(path))
    except ValidationError as error:
        raise BadInput(*fault_lines(error, Settings, lambda _: str(path))) from None


def in_force(settings: Settings) -> tuple[InForce, ...]:
    """Every setting with its value and its source, fit to be shown."""
    shown = settings.model_dump(mode="json") | {"notify": [address.shown for address in settings.addresses]}
    return tuple(
        InForce(name, value, "file" if name in settings.model_fields_set else "default")
        for name, value in shown.items()
    )
