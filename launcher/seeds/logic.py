"""Claims about procedures rather than numbers: the chapter's data split and decision function, a plan's own example.

Each function runs the procedure as its document prints it and counts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from launcher.cost.strategy import Situation, chapter_choice
from launcher.cost.strategy_costs import Path
from launcher.cost.tuning_services import CHECKED, SERVICES, Customer
from launcher.seeds.verdict import Result


@dataclass(frozen=True)
class _Example:
    tool: int
    phrasing: int
    tools_used: int


def split_leak() -> Result:
    """The chapter's `split_data_three_dimensions` on 20 tools of 50 examples, every fifth with several calls.

    Returns the share of single-turn examples held out for phrasing or for new tools that its training set contains, %.
    """
    shuffle = random.Random(0)
    examples = [_Example(tool, n, 2 if n % 5 == 0 else 1) for tool in range(20) for n in range(50)]
    train: list[_Example] = []
    held_out: list[_Example] = []
    for tool in range(20):
        own = [example for example in examples if example.tool == tool]
        shuffle.shuffle(own)
        point = int(len(own) * 0.8)
        train += own[:point]
        held_out += own[point:]
    kept_out = set(range(16, 20))
    held_out += [example for example in examples if example.tool in kept_out]
    train = [example for example in train if example.tool not in kept_out]
    train += [example for example in examples if example.tools_used == 1]
    single = [example for example in held_out if example.tools_used == 1]
    leaked = 100 * len(set(single) & set(train)) / len(set(single))
    return Result(leaked, leaked)


def fall_through() -> Result:
    """How many situations that need 95 % leave the chapter's function by its last `else`."""
    situations = list(_situations())
    lost = [situation for situation in situations if _falls_through(situation)]
    return _count(len(lost), total=len(situations))


def privacy_leak() -> Result:
    """How many privacy-sensitive situations the chapter's function sends to a hosted API."""
    private = [situation for situation in _situations() if situation.privacy]
    leaked = [situation for situation in private if chapter_choice(situation) != Path.LOCAL]
    return _count(len(leaked), total=len(private))


def claude_services() -> Result:
    """On how many services a Claude model can be tuned on the day the table of services was checked."""
    return _sold("claude", CHECKED)


def openai_services() -> Result:
    """Whether a new customer can tune with OpenAI on that day."""
    return _sold("openai", CHECKED)


def valid_example_calls() -> Result:
    """The three calls of the schema plan's own training example against the plan's own list of tools."""
    required = {
        "list_files": {"rel_dir", "max_files"},
        "read_file": {"rel_path", "max_chars"},
        "write_file": {"rel_path", "content"},
    }
    calls = {"list_files": {"rel_path"}, "read_file": {"rel_path"}, "write_file": {"rel_path", "content"}}
    return _count(sum(arguments == required[tool] for tool, arguments in calls.items()), total=len(calls))


LOGIC: dict[str, Callable[[], Result]] = {
    function.__name__: function
    for function in (split_leak, fall_through, privacy_leak, claude_services, openai_services, valid_example_calls)
}


def _situations() -> list[Situation]:
    """Every provider, sizes on both sides of the chapter's limits and on them, with and without privacy and a team."""
    sizes = (5_000, 10_000, 50_000, 99_999, 100_000, 200_000)
    return [
        Situation(provider=provider, monthly_users=users, accuracy=0.95, privacy=privacy, ml_team=team)
        for provider, users, privacy, team in itertools.product(SERVICES, sizes, (False, True), (False, True))
    ]


def _falls_through(situation: Situation) -> bool:
    chosen_by_first_branch = situation.provider == "claude" or situation.monthly_users < 10_000
    return chapter_choice(situation) == Path.PROMPTS and not chosen_by_first_branch


def _sold(provider: str, today: date) -> Result:
    return _count(int(SERVICES[provider].sold(Customer.NEW, today)))


def _count(number: int, **facts: int) -> Result:
    return Result(float(number), float(number), facts=facts)
