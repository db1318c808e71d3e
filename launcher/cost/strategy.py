"""Prompting, tuning in the cloud, or tuning one's own model: the training chapter's decision, with its faults mended.

The chapter's rules stand in `chapter_choice` as it wrote them. `choose_strategy` follows them where they are sane and
says so where it does not:

- privacy comes first: prompting a hosted API sends the data away just as tuning there does;
- exactly 100,000 users fell between '< 100,000' and '> 100,000', and so did everybody who is neither with OpenAI nor
  large nor private nor has a team: they got prompting without a reason, whatever accuracy they needed;
- that Claude cannot be tuned rules out tuning Claude, not tuning an open model;
- no path is recommended that cannot be bought on that day.

Pure; `today` is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from launcher.cost.strategy_costs import Path, PathCost, path_cost
from launcher.cost.tuning_services import SERVICES, Customer
from launcher.errors import BadInput

MANY_USERS = 10_000
MOST_CLOUD_USERS = 100_000
TUNED_ACCURACY = 0.95
# The chapter: prompts 'max out at 90-92 %' (section Path 1), tuned models reach 95 to 98 %.
PROMPT_CEILING = 0.92
TUNED_CEILING = 0.98


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Who asks. monthly_calls: None where unknown; budget_usd: a month, None where there is no limit."""

    provider: str
    monthly_users: int
    accuracy: float
    privacy: bool = False
    ml_team: bool = False
    monthly_calls: float | None = None
    budget_usd: float | None = None
    customer: Customer = Customer.NEW


@dataclass(frozen=True)
class Strategy:
    """The answer. chapter: what the chapter's own function says; corrections: why this answer is another one, or what
    the chapter contradicts itself in. not_sold: paths left out because nobody sells them now. costs: of all paths."""

    path: Path
    reasons: tuple[str, ...]
    graduation: tuple[str, ...]
    next_path: Path | None
    costs: tuple[PathCost, ...]
    chapter: Path
    corrections: tuple[str, ...]
    not_sold: tuple[str, ...]
    warnings: tuple[str, ...]


def chapter_choice(situation: Situation) -> Path:
    """The chapter's `choose_training_strategy`, branch by branch as printed."""
    if situation.provider == "claude" or situation.monthly_users < MANY_USERS or situation.accuracy < TUNED_ACCURACY:
        return Path.PROMPTS
    if (
        situation.provider == "openai"
        and situation.monthly_users < MOST_CLOUD_USERS
        and not situation.privacy
        and not situation.ml_team
    ):
        return Path.CLOUD
    if situation.monthly_users > MOST_CLOUD_USERS or situation.privacy or situation.ml_team:
        return Path.LOCAL
    return Path.PROMPTS


def choose_strategy(situation: Situation, today: date) -> Strategy:
    """Which path, why, at what cost, and when to take the next one.

    Raises:
        BadInput: accuracy outside (0, 1], a negative number of users or calls, a budget of 0, an unknown provider.
    """
    _refuse_bad_input(situation)
    service = SERVICES[situation.provider]
    sold = service.sold(situation.customer, today)
    path, reasons = _decide(situation, sold)
    following = _next_path(situation, path, sold)
    return Strategy(
        path=path,
        reasons=tuple(reasons),
        graduation=tuple(_graduation(situation, path, following)),
        next_path=following,
        costs=tuple(path_cost(each, situation.monthly_calls) for each in Path),
        chapter=chapter_choice(situation),
        corrections=tuple(_corrections(situation, path)),
        not_sold=tuple(line for line in [service.why_not(situation.customer, today)] if line),
        warnings=tuple(_warnings(situation, path, today)),
    )


def _decide(situation: Situation, sold: bool) -> tuple[Path, list[str]]:
    users, accuracy = situation.monthly_users, situation.accuracy
    if situation.privacy:
        return Path.LOCAL, [
            "the data may not leave: prompts to a hosted model carry it out just as training files do",
            "an open model on machines you rent or own serves prompts and training alike; prompt it first, tune it "
            "when it measures short",
        ]
    if users < MANY_USERS:
        return Path.PROMPTS, [f"{users:,} users a month are below {MANY_USERS:,}: find out first what prompts reach"]
    if accuracy < TUNED_ACCURACY:
        return Path.PROMPTS, [
            f"{_percent(accuracy)} is below {_percent(TUNED_ACCURACY)}: few-shot examples in the prompt may reach it, "
            "and cost nothing to try"
        ]
    need = f"{_percent(accuracy)} is asked for, prompts alone stop at about {_percent(PROMPT_CEILING)}"
    if users >= MOST_CLOUD_USERS:
        return Path.LOCAL, [need, f"{users:,} users a month: at this volume the price of tokens decides"]
    if situation.ml_team:
        return Path.LOCAL, [need, "the team that this path needs is there"]
    if sold:
        return Path.CLOUD, [need, f"no team of your own: {SERVICES[situation.provider].service} runs it for you"]
    return Path.PROMPTS, [
        f"{need}, but this provider sells no fine-tuning to you now",
        "without a team, get from prompts what they give, measure it on held-out requests, and take the next path "
        "if it stays short",
    ]


def _next_path(situation: Situation, path: Path, sold: bool) -> Path | None:
    if path == Path.LOCAL:
        return None
    return Path.CLOUD if path == Path.PROMPTS and sold else Path.LOCAL


def _graduation(situation: Situation, path: Path, following: Path | None) -> list[str]:
    if path == Path.PROMPTS:
        lines = [
            f"measured accuracy stays below {_percent(situation.accuracy)} after three rounds of better examples "
            "(on 300 held-out requests or more: then it is known to 3 points)",
            "examples make up more than 30 % of the whole bill, answers included (the chapter's 'context cost > 30 % "
            "of inference budget' holds from the first day when answers are left out)",
        ]
        if situation.monthly_users < MANY_USERS:
            lines.append(f"more than {MANY_USERS:,} users a month")
    elif path == Path.CLOUD:
        lines = [
            f"{MOST_CLOUD_USERS:,} users a month or more",
            "launcher compare-api, with your calls, tokens and today's prices, finds serving your own model cheaper",
            "the service is closed, or the data may no longer leave",
        ]
    else:
        lines = ["none: this is the last path; go back when the API's bill would be lower (launcher compare-api)"]
    return lines + ([f"then: {following}"] if following else [])


def _corrections(situation: Situation, path: Path) -> list[str]:
    chapter = chapter_choice(situation)
    lines = []
    if chapter != path:
        lines.append(f"the chapter's function says {chapter}; this answer is {path}: {_why_other(situation)}")
    if chapter == Path.PROMPTS and path == Path.PROMPTS and situation.monthly_users >= MANY_USERS:
        lines.append(
            f"the chapter recommends prompting and in the same answer tells to leave it above {MANY_USERS:,} users; "
            f"there are {situation.monthly_users:,}: the criterion here is measured accuracy"
        )
    if PROMPT_CEILING < situation.accuracy < TUNED_ACCURACY:
        lines.append(
            f"the chapter sends {_percent(situation.accuracy)} to prompts and says that prompts stop at 90 to 92 %: "
            "expect to move on"
        )
    return lines


def _why_other(situation: Situation) -> str:
    if situation.privacy:
        return "it lets data that may not leave go to a hosted API"
    if situation.provider == "claude":
        return "that Claude cannot be tuned does not keep an open model from being tuned"
    if situation.monthly_users == MOST_CLOUD_USERS:
        return f"it has no branch for exactly {MOST_CLOUD_USERS:,} users"
    if situation.provider == "openai":
        return "its path is no longer sold to you"
    return "it knows no cloud fine-tuning but OpenAI's"


def _warnings(situation: Situation, path: Path, today: date) -> list[str]:
    lines = []
    if situation.accuracy > TUNED_CEILING:
        lines.append(
            f"{_percent(situation.accuracy)} is above what the chapter expects even of tuned models (95 to 98 %)"
        )
    end = SERVICES[situation.provider].ends_soon(situation.customer, today)
    if path == Path.CLOUD and end:
        lines.append(f"no new jobs from {end} on: retraining needs another path after that")
    if path == Path.LOCAL and not situation.ml_team:
        lines.append("there is no ML team: renting GPUs by the hour avoids servers, not the work of evaluating a model")
    cost = path_cost(path, situation.monthly_calls)
    if situation.budget_usd is not None and cost.monthly_low_usd > situation.budget_usd:
        lines.append(
            f"{path} costs about {cost.monthly_low_usd:,.0f} usd a month or more, above the budget of "
            f"{situation.budget_usd:,.0f}"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _refuse_bad_input(situation: Situation) -> None:
    faults = []
    if situation.provider not in SERVICES:
        faults.append(f"--provider: {situation.provider!r}: unknown; one of {', '.join(SERVICES)}")
    if situation.monthly_users < 0:
        faults.append(f"--monthly-users: {situation.monthly_users}: must not be negative")
    if not 0 < situation.accuracy <= 1:
        faults.append(f"--accuracy: {situation.accuracy:g}: a share above 0 and up to 1 is needed, such as 0.95")
    if situation.monthly_calls is not None and not 0 < situation.monthly_calls < math.inf:
        faults.append(f"--monthly-calls: {situation.monthly_calls:g}: must be above 0 and finite")
    if situation.budget_usd is not None and not 0 < situation.budget_usd < math.inf:
        faults.append(f"--budget-usd: {situation.budget_usd:g}: must be above 0 and finite")
    if faults:
        raise BadInput(*faults)
