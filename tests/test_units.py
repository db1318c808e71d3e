"""Units: what people write is read as meant, and what is written out is read back exactly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.units import format_duration, format_memory, parse_duration, parse_memory, parse_usd

POSITIVE = st.floats(min_value=1e-9, max_value=1e15, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21600), ("90m", 5400), ("1h30m", 5400), ("1h 30m", 5400), ("45s", 45), ("2d", 172800), ("1.5h", 5400)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "6", 6, 6.0, "h", "-6h", "30m1h", "6 hours", "1h1h", "0h", "inf", "9" * 400 + "h", None, True]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "usd"),
    [("15 usd", 15), ("15usd", 15), ("15 USD", 15), ("$15", 15), ("$ 0.05", 0.05), (15, 15), (0.5, 0.5)],
)
def test_money_is_us_dollars(value: object, usd: float) -> None:
    assert parse_usd(value) == usd


@pytest.mark.parametrize(
    "value", ["15 eur", "$", "-$3", "$-3", "", -3, 0, "0 usd", math.nan, math.inf, 10**400, True, None, [15]]
)
def test_what_is_no_amount_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="US dollars"):
        parse_usd(value)


@pytest.mark.parametrize(
    ("text", "gib"), [("80GiB", 80), ("80 GiB", 80), ("512MiB", 0.5), ("1TiB", 1024), ("0.5GiB", 0.5)]
)
def test_binary_memory_is_gib(text: str, gib: float) -> None:
    assert parse_memory(text) == gib


def test_decimal_gigabytes_are_fewer_gib() -> None:
    assert parse_memory("24 GB") == pytest.approx(24e9 / 2**30)


@pytest.mark.parametrize("text", ["24", 24, "24G", "24gb", "-1GiB", "0GiB", "GiB", None, True])
def test_ambiguous_memory_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="memory"):
        parse_memory(text)


@given(POSITIVE)
def test_a_duration_survives_being_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(POSITIVE)
def test_memory_survives_being_written(gib: float) -> None:
    assert parse_memory(format_memory(gib)) == gib


def test_whole_durations_read_like_a_person_wrote_them() -> None:
    assert [format_duration(s) for s in (21600.0, 5400.0, 61.0)] == ["6h", "1h30m", "1m1s"]


@given(hours=st.integers(0, 1000), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
