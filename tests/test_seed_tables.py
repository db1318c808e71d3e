"""The seed documents' figures: verdicts follow from the numbers, and the known errors are found by arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli.app import run
from launcher.errors import BadInput
from launcher.seeds.claims import Claim, load_claims, shipped_claims
from launcher.seeds.expression import evaluate, evaluate_interval
from launcher.seeds.logic import split_leak
from launcher.seeds.table import COMMAND, markdown, number_text, recompute, seed_rows
from launcher.seeds.verdict import Result, Row, Verdict, arithmetic, judge

PAGE = Path(__file__).parent.parent / "docs" / "seeds-recomputed.md"
CLAIMS = {claim.id: claim for claim in shipped_claims()}
EXACT = [claim for claim in shipped_claims() if claim.recompute is not None]


def row(claim_id: str) -> Row:
    claim = CLAIMS[claim_id]
    return judge(claim, recompute(claim))


def one_claim(**fields: Any) -> Claim:
    base = {"id": "x", "table": "t", "document": "d", "section": "s", "says": "", "unit": "u", "because": "{got}"}
    return Claim.model_validate(base | {"claimed": 10, "given": {"a": 2, "b": 5}, "recompute": "a * b"} | fields)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return seed_rows()


# --- the errors of the seeds, each from the claim's own numbers -------------------------------------------------------


@pytest.mark.parametrize(
    ("claim_id", "value"),
    [
        ("specialists.counts_are_calls", 330 + 529 + 339 - 61),
        ("specialists.subsets_exceed_all", 38.6 + 61.9 + 39.7 - 100 * 61 / 854),
        ("specialists.early_stopping", (3 + 1) * 50),
        ("specialists.evaluations", 1),
        ("specialists.saves", 0),
        ("specialists.threshold", 1 / 86),
        ("specialists.test_set", 196 * (0.9 * 0.1 / 85) ** 0.5),
        ("specialists.improvement", 100 * (90 - 60) / 60),
        ("specialists.targets", 90),
        ("specialists.cheaper", 75 / 15),
        ("specialists.power", 0.45 * 730.5 * 0.1805),
        ("specialists.zero_cost", 15 / 3),
        ("specialists.opus_price", 5),
        ("specialists.saving_real_power", 75 - 0.45 * 730.5 * 0.1805),
        ("agent.reduction", 100 * (1900 - 160) / 1900),
        ("agent.minimum_rows", 200),
        ("agent.aws_gpus", 98.32 * 10 / 8),
        ("chapter.price_unit", 8000),
        ("chapter.training_at_1k", 80_000),
        ("chapter.training_epochs", 240),
        ("chapter.path2_sum", 80 + 100 + 1800 + 30),
        ("chapter.path2_month", 1830),
        ("chapter.path2_elsewhere", 1830),
        ("chapter.retraining", 80 * 52.18 / 12 + 30),
        ("chapter.egress", 10_000 * 1000 * 4 / 1e9 * 0.09),
        ("chapter.breakeven_cloud", 30 / 0.0042),
        ("chapter.payback_prompts", 30_000 / (6000 - 1000)),
        ("chapter.payback_cloud", 30_000 / (1880 - 1000)),
        ("chapter.epochs", -1),
        ("chapter.context_share", 90),
        ("chapter.critical", 100),
        ("chapter.own_criteria", 50_000),
        ("osrs.simple_share", 100 * 500 / 1400),
        ("osrs.status_share", 100 * 200 / 1400),
    ],
)
def test_an_error_of_the_seeds_is_found_by_its_own_numbers(claim_id: str, value: float) -> None:
    found = row(claim_id)
    assert found.verdict == Verdict.WRONG
    assert found.result.low == found.result.high == pytest.approx(value)


@pytest.mark.parametrize(
    ("claim_id", "low", "high"),
    [
        ("specialists.cost_range", 6, 16),
        ("specialists.augmentation", 899, 924),
        ("chapter.breakeven_requests", 30_000 / 36 / 0.0013, 30_000 / 36 / 0.0008),
        ("chapter.amortised", 30_000 / 36 + 500, 30_000 / 36 + 1000),
        ("chapter.no_token_cost", 2.5, 5),
        ("chapter.function_setup", 130, 280),
        ("chapter.accuracy_generic", 85, 95),
        ("schema.trajectories", 40, 90),
        ("schema.tasks", 30, 45),
        ("osrs.collection", 3.4, 6.8),
    ],
)
def test_a_range_that_does_not_follow_is_found(claim_id: str, low: float, high: float) -> None:
    found = row(claim_id)
    assert found.verdict == Verdict.WRONG
    assert (found.result.low, found.result.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "claim_id",
    [
        "specialists.split_sum",
        "specialists.veran_sum",
        "specialists.one_time",
        "specialists.payback",
        "agent.full_70b",
        "agent.lambda_120b",
        "agent.aws_120b",
        "chapter.prompt_monthly",
        "chapter.metadata",
        "osrs.examples_sum",
        "schema.samples",
    ],
)
def test_what_is_right_is_called_right(claim_id: str) -> None:
    assert row(claim_id).verdict == Verdict.RIGHT


def test_fifteen_dollars_of_power_mean_less_than_five_cents() -> None:
    found = row("specialists.power")
    assert found.result.facts["implied"] == pytest.approx(15 / (0.45 * 730.5))
    assert "$0.046 per kWh" in found.because


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.id)
def test_no_verdict_is_written_down(claim: Claim) -> None:
    """Whatever a document claims: claiming what comes out is right, claiming something far off is not."""
    if claim.unchecked or claim.compare != "equal":
        return
    result = arithmetic(claim)
    assert judge(claim.model_copy(update={"claimed": (result.low, result.high)}), result).verdict == Verdict.RIGHT
    off = tuple(3 * abs(end) + 7 for end in (result.low, result.high))
    assert judge(claim.model_copy(update={"claimed": off}), result).verdict == Verdict.WRONG


# --- procedures -----------------------------------------------------------------------------------------------------


def test_the_chapters_split_trains_on_its_own_test_sets() -> None:
    assert split_leak().low == 100
    assert row("chapter.split_leak").verdict == Verdict.WRONG


def test_the_chapters_function_loses_inputs_and_leaks_private_data() -> None:
    assert row("chapter.fall_through").result.low == 9
    assert row("chapter.privacy_leak").result.low == 18


def test_the_schema_plans_example_breaks_its_own_schema() -> None:
    assert row("schema.example_calls").result.low == 1


# --- what the planner gets ------------------------------------------------------------------------------------------


def test_trainable_parameters_are_counted_from_the_shape() -> None:
    found = row("chapter.trainable")
    assert found.result.low == pytest.approx(80 * 8 * (16384 + 9216 + 9216 + 16384) / 1e6)
    assert found.verdict == Verdict.WRONG
    assert row("chapter.adapter_size").verdict == Verdict.RIGHT


def test_32b_in_bf16_does_not_fit_the_plans_card() -> None:
    for claim_id in ("specialists.memory_lora", "specialists.memory_lora_smallest", "specialists.memory_a100_40"):
        found = row(claim_id)
        assert found.verdict == Verdict.WRONG and found.result.fits == "no"
        assert found.result.median is not None and found.result.median > 60
    assert row("specialists.memory_qlora").result.fits in ("tight", "yes")


def test_an_offer_that_no_catalog_has_is_not_judged() -> None:
    claim = one_claim(
        recompute=None,
        compare="interval",
        planner={"kind": "price", "gpu": "B300", "gpu_memory_gib": 288, "providers": ["lambda"]},
    )
    found = judge(claim, recompute(claim))
    assert found.verdict == Verdict.UNCHECKED and "no 1x B300" in found.because


def test_planner_rows_are_intervals_around_their_median(rows: list[Row]) -> None:
    for each in rows:
        result = each.result
        if result.low is not None and result.high is not None and result.median is not None:
            assert result.low <= result.median <= result.high, each.claim.id


def test_every_wanted_table_is_there(rows: list[Row]) -> None:
    tables = {each.claim.table for each in rows}
    assert tables >= {
        "the three specialists",
        "the specialists' one-time and monthly cost",
        "the agent guide's hardware",
        "the agent guide's providers",
        "the chapter's three paths",
        "the OSRS plan",
    }
    assert all(each.because for each in rows)


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compare", "claimed", "verdict"),
    [
        ("equal", 10, Verdict.RIGHT),
        ("equal", 10.15, Verdict.RIGHT),
        ("equal", 11, Verdict.WRONG),
        ("covers", [5, 12], Verdict.RIGHT),
        ("covers", [11, 12], Verdict.WRONG),
        ("at_most", 12, Verdict.RIGHT),
        ("at_most", 9, Verdict.WRONG),
        ("at_least", 9, Verdict.RIGHT),
        ("at_least", 12, Verdict.WRONG),
        ("inside", 10, Verdict.RIGHT),
        ("inside", [5, 12], Verdict.WRONG),
    ],
)
def test_how_a_claim_is_compared(compare: str, claimed: Any, verdict: Verdict) -> None:
    claim = one_claim(compare=compare, claimed=claimed)
    assert judge(claim, arithmetic(claim)).verdict == verdict


def test_a_median_within_the_claim_or_a_claim_within_the_interval_is_right() -> None:
    claim = one_claim(compare="interval", claimed=[2, 4])
    assert judge(claim, Result(1.0, 9.0, 3.0)).verdict == Verdict.RIGHT
    assert judge(claim, Result(1.5, 5.0, 4.5)).verdict == Verdict.RIGHT
    assert judge(claim, Result(3.0, 9.0, 6.0)).verdict == Verdict.WRONG


def test_what_only_a_run_can_tell_is_not_judged() -> None:
    claim = one_claim(compare="memory")
    verdicts = [judge(claim, Result(20.0, 25.0, 22.0, fits)).verdict for fits in ("yes", "tight", "no")]
    assert verdicts == [Verdict.RIGHT, Verdict.UNCHECKED, Verdict.WRONG]


def test_a_claim_says_one_way_to_compute_it() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        one_claim(logic="split_leak")
    with pytest.raises(ValueError, match="unchecked"):
        one_claim(claimed=None)


def test_two_claims_of_one_id_are_refused(tmp_path: Path) -> None:
    entry = one_claim().model_dump(mode="json")
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"claims": [entry, entry]}), encoding="utf-8")
    with pytest.raises(ValueError, match="same id: x"):
        load_claims(path)
    with pytest.raises(BadInput, match="no such file"):
        load_claims(tmp_path / "none.yaml")


# --- arithmetic -----------------------------------------------------------------------------------------------------


@given(a=st.floats(-1e6, 1e6), b=st.floats(0.01, 1e6))
def test_arithmetic_is_pythons(a: float, b: float) -> None:
    assert evaluate("(a + b) * 3 - a / b", {"a": a, "b": b}) == (a + b) * 3 - a / b


@given(low=st.floats(1, 100), width=st.floats(0, 100), factor=st.floats(0.1, 10))
def test_an_interval_keeps_its_ends(low: float, width: float, factor: float) -> None:
    got = evaluate_interval("a * f", {"a": (low, low + width), "f": (factor, factor)})
    assert got == (low * factor, (low + width) * factor)


@pytest.mark.parametrize("text", ["__import__('os')", "a.b", "a if a else b", "[1]", "c", "open('x')", "max(a, key=b)"])
def test_nothing_but_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(ValueError, match="not arithmetic"):
        evaluate(text, {"a": 1.0, "b": 2.0})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0036, "0.0036"),
        (14.05, "14.05"),
        (122.9, "122.9"),
        (7142.9, "7,143"),
        (64_102.6, "64,103"),
        (-1, "-1"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text


# --- the page and the command ---------------------------------------------------------------------------------------


def test_the_committed_page_is_current(rows: list[Row]) -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(rows), f"run {COMMAND}"


def test_plan_seeds_prints_one_json_array(capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.cli.business import print_seed_tables

    print_seed_tables(as_json=True)
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == len(CLAIMS)
    assert {entry["verdict"] for entry in entries} == {verdict.value for verdict in Verdict}
    print_seed_tables(as_json=False)
    assert "the chapter's three paths" in capsys.readouterr().out


COMPARE = [
    "compare-api", "--calls-per-month", "1000", "--input-tokens", "500", "--output-tokens", "50",
    "--api-input-usd-per-million", "3", "--api-output-usd-per-million", "15",
]  # fmt: skip


def test_compare_api_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--price-date", "2024-01-01", "--gpu-usd-per-hour", "1", "--tokens-per-second", "2000", "--json"]
    assert run([*COMPARE, *rest]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["api_usd"] == pytest.approx(1000 * (500 * 3 + 50 * 15) / 1e6)
    assert len(result["modes"]) == 4 and result["assumptions"]


PRICED = ["--price-date", "2024-01-01"]
RENTED = ["--gpu-usd-per-hour", "1"]
SPEED = ["--tokens-per-second", "9"]


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        (["--price-date", "yesterday", *RENTED, *SPEED], "--price-date: 'yesterday'"),
        (["--price-date", "2999-01-01", *RENTED, *SPEED], "--price-date: 2999-01-01: in the future"),
        ([*PRICED, *SPEED], "either --gpu-usd-per-hour or --offer"),
        ([*PRICED, *RENTED], "--tokens-per-second: nobody has published"),
        ([*PRICED, "--gpu-usd-per-hour", "0", *SPEED], "--gpu-usd-per-hour: 0"),
        ([*RENTED, *SPEED], "--price-date"),
    ],
)
def test_compare_api_refuses_in_one_line(rest: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMPARE, *rest]) == 2
    assert line in capsys.readouterr().err


def test_strategy_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["strategy", "--provider", "claude", "--monthly-users", "50000", "--accuracy", "0.95"]
    assert run([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "prompt_engineering"
    assert run(asked) == 0
    assert "move on when" in capsys.readouterr().out
    assert run([*asked[:-1], "1.5"]) == 2
