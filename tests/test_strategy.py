"""Which path to take: the chapter's rules where they are sane, their faults mended, nothing that is no longer sold."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cost.strategy import Situation, Strategy, chapter_choice, choose_strategy
from launcher.cost.strategy_costs import Path, path_cost
from launcher.cost.tuning_services import SERVICES, Customer
from launcher.errors import BadInput

TODAY = date(2026, 11, 21)
EARLY_2025 = date(2025, 3, 1)
BIG = Situation(provider="openai", monthly_users=50_000, accuracy=0.95)
SITUATIONS = st.builds(
    Situation,
    provider=st.sampled_from(sorted(SERVICES)),
    monthly_users=st.integers(0, 1_000_000),
    accuracy=st.floats(0.01, 1.0),
    privacy=st.booleans(),
    ml_team=st.booleans(),
    monthly_calls=st.none() | st.floats(1, 1e9),
    budget_usd=st.none() | st.floats(1, 1e6),
    customer=st.sampled_from(list(Customer)),
)
DAYS = st.dates(date(2025, 1, 1), date(2028, 1, 1))


def ask(today: date = TODAY, **changes: Any) -> Strategy:
    return choose_strategy(dataclasses.replace(BIG, **changes), today)


def test_the_chapters_own_example() -> None:
    answer = ask(provider="claude")
    assert answer.path == answer.chapter == Path.PROMPTS
    assert answer.next_path == Path.LOCAL
    assert any("50,000" in line and "10,000" in line for line in answer.corrections)


def test_small_or_modest_needs_start_with_prompts() -> None:
    assert ask(monthly_users=9_999, accuracy=0.99).path == Path.PROMPTS
    assert ask(accuracy=0.949, provider="open").path == Path.PROMPTS


def test_openai_was_the_cloud_path_while_it_was_sold() -> None:
    answer = ask(EARLY_2025)
    assert answer.path == answer.chapter == Path.CLOUD
    assert not answer.not_sold


@pytest.mark.parametrize(
    ("customer", "closed_on"),
    [
        (Customer.NEW, date(2026, 5, 7)),
        (Customer.LAPSED, date(2026, 7, 2)),
        (Customer.ACTIVE, date(2027, 1, 6)),
    ],
)
def test_openai_closes_on_its_day_for_each_kind_of_customer(customer: Customer, closed_on: date) -> None:
    before = ask(closed_on - timedelta(days=1), customer=customer)
    after = ask(closed_on, customer=customer)
    assert before.path == Path.CLOUD
    assert any(str(closed_on) in line for line in before.warnings), "an end that is near is named"
    assert after.path != Path.CLOUD and after.next_path != Path.CLOUD
    assert any(str(closed_on) in line for line in after.not_sold)


def test_claude_is_not_tuned_as_a_service() -> None:
    for customer in Customer:
        answer = ask(provider="claude", customer=customer)
        assert Path.CLOUD not in (answer.path, answer.next_path)
        assert any("Bedrock" in line for line in answer.not_sold)


def test_other_clouds_are_known() -> None:
    assert ask(provider="gemini").path == ask(provider="open").path == Path.CLOUD
    assert ask(provider="gemini").chapter == Path.PROMPTS, "the chapter knows OpenAI alone"


@pytest.mark.parametrize("provider", sorted(SERVICES))
@pytest.mark.parametrize("users", [10, 50_000, 200_000])
def test_data_that_may_not_leave_stays(provider: str, users: int) -> None:
    answer = ask(provider=provider, monthly_users=users, accuracy=0.9, privacy=True)
    assert answer.path == Path.LOCAL
    assert answer.chapter == Path.LOCAL or any("may not leave" in line for line in answer.corrections)


def test_a_hundred_thousand_users_do_not_fall_through() -> None:
    assert chapter_choice(dataclasses.replace(BIG, monthly_users=100_000)) == Path.PROMPTS
    answer = ask(EARLY_2025, monthly_users=100_000)
    assert answer.path == Path.LOCAL
    assert any("no branch for exactly 100,000" in line for line in answer.corrections)


def test_a_team_or_many_users_tune_their_own_whatever_the_provider() -> None:
    assert ask(provider="claude", ml_team=True).path == Path.LOCAL
    assert ask(provider="claude", monthly_users=150_000).path == Path.LOCAL
    assert any("no ML team" in line for line in ask(monthly_users=150_000).warnings)


def test_a_budget_below_the_cost_is_named() -> None:
    answer = ask(provider="claude", budget_usd=1000.0)
    assert any("above the budget of 1,000" in line for line in answer.warnings)
    assert not any("budget" in line for line in ask(provider="claude", budget_usd=10_000.0).warnings)


def test_costs_grow_with_calls_and_come_in_order() -> None:
    for path in Path:
        few, many = path_cost(path, 10_000), path_cost(path, 10_000_000)
        assert few.monthly_low_usd < many.monthly_low_usd
        assert few.monthly_low_usd <= few.monthly_high_usd and few.setup_low_usd <= few.setup_high_usd
    assert path_cost(Path.PROMPTS, None).monthly_low_usd == pytest.approx(6000)
    assert path_cost(Path.CLOUD, None).monthly_low_usd == pytest.approx(1800)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"accuracy": 0.0}, "--accuracy: 0"),
        ({"accuracy": 1.01}, "--accuracy: 1.01"),
        ({"accuracy": math.nan}, "--accuracy: nan"),
        ({"monthly_users": -1}, "--monthly-users: -1"),
        ({"monthly_calls": 0.0}, "--monthly-calls: 0"),
        ({"budget_usd": math.inf}, "--budget-usd: inf"),
        ({"provider": "cloude"}, "--provider: 'cloude'"),
    ],
)
def test_bad_input_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        ask(**changes)
    (fault,) = caught.value.faults
    assert fault.startswith(line)


@given(situation=SITUATIONS, today=DAYS)
def test_nothing_that_is_not_sold_is_recommended(situation: Situation, today: date) -> None:
    answer = choose_strategy(situation, today)
    sold = SERVICES[situation.provider].sold(situation.customer, today)
    assert sold or Path.CLOUD not in (answer.path, answer.next_path)
    assert answer.reasons and answer.graduation and len(answer.costs) == len(Path)
    assert answer.next_path != answer.path
    assert answer.path == answer.chapter or answer.corrections, "another answer than the chapter's is explained"


@given(situation=SITUATIONS)
def test_once_closed_stays_closed(situation: Situation) -> None:
    service = SERVICES[situation.provider]
    states = [service.sold(situation.customer, date(2025, 1, 1) + timedelta(days=30 * n)) for n in range(40)]
    assert states == sorted(states, reverse=True)


def test_every_service_names_its_source() -> None:
    assert all(service.source and service.note for service in SERVICES.values())
