"""`launcher doctor`: everything that can be known before money is spent, asked for at once; also asked before y/N.

What could not be asked is said to be not checked, never to be in order.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from launcher.cloud.account import clock_skew_s, hourly_limit
from launcher.cloud.fetch import SourceFailed, in_parallel
from launcher.cloud.hub import ask_hub
from launcher.cloud.rentals import TIMEOUT_S, WHOLE_CALL_S, ProviderFailed, access, balance, list_rentals
from launcher.cost.ledger import default_ledger, state_folder
from launcher.cost.limits import SpendLimits, refuse_over_limits, standing
from launcher.cost.offer import Provider
from launcher.errors import BadInput, LauncherError, Refused
from launcher.models import BUILTIN_PREFIX, is_folder_id, model_location
from launcher.settings import Settings

# Adapters, their checkpoints and logs come home; the largest shipped job brings less than this.
DISK_GIB = 2.0
# Rentals are billed by the second, and the ledger may be two seconds off; a node ends itself by its own clock at the
# time that this machine wrote down, so minutes of difference are minutes of rent.
SKEW_NOTE_S, SKEW_FAULT_S = 2.0, 60.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Verdict(StrEnum):
    """What a finding means: in order; to be known; nothing may be rented before it is put right; nobody knows."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and one line about it."""

    subject: str
    verdict: Verdict
    detail: str

    def to_json(self) -> dict[str, str]:
        """The finding as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Occasion:
    """What is about to be rented: from one of whom, for which models, for how much.

    models: (id, revision). worst_case_usd, usd_per_hour: of everything that is launched together; None: not known.
    """

    providers: Sequence[Provider]
    models: Sequence[tuple[str, str]] = ()
    worst_case_usd: float | None = None
    usd_per_hour: float | None = None
    runs_dir: Path = Path("runs")


def examine(occasion: Occasion, settings: Settings, offline: bool = False) -> list[Finding]:
    """Look at everything; questions to others are asked at once, or not at all where `offline`."""
    findings = [*_disks(occasion), _limits(occasion, settings), *_keys(occasion)]
    questions = _questions(occasion)
    if offline:
        return findings + [Finding(subject, Verdict.NOT_CHECKED, "offline") for subject in questions]
    answers = in_parallel(questions, WHOLE_CALL_S + TIMEOUT_S)
    findings += _network(occasion, answers)
    for subject, answer in answers.items():
        if isinstance(answer, SourceFailed):
            findings.append(Finding(subject, Verdict.NOT_CHECKED, str(answer)))
        else:
            findings.append(Finding(subject, *answer))
    return findings


def faults(findings: Sequence[Finding]) -> list[str]:
    """What must be put right before anything is rented, one line each."""
    return [f"{finding.subject}: {finding.detail}" for finding in findings if finding.verdict == Verdict.FAULT]


# --- this machine ----------------------------------------------------------------------------------------------------


def _disks(occasion: Occasion) -> Iterator[Finding]:
    for name, path in (("run folders", occasion.runs_dir.absolute()), ("ledger", state_folder().absolute())):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        subject = f"disk for {name}"
        try:
            with tempfile.TemporaryFile(dir=there):
                free_gib = shutil.disk_usage(there).free / 2**30
        except OSError as fault:
            yield Finding(subject, Verdict.FAULT, f"{there}: cannot be written to ({fault.strerror or fault})")
            continue
        verdict = Verdict.OK if free_gib >= DISK_GIB else Verdict.FAULT
        needed = "" if verdict == Verdict.OK else f"; {DISK_GIB:g} GiB are needed for what is brought home"
        yield Finding(subject, verdict, f"{there}: {free_gib:.1f} GiB free{needed}")


def _limits(occasion: Occasion, settings: Settings) -> Finding:
    limits = SpendLimits(settings.max_usd_per_month, settings.max_usd_at_once)
    try:
        now = standing(default_ledger().rentals(), time.time())
        if occasion.worst_case_usd is not None:
            refuse_over_limits(now, occasion.worst_case_usd, limits)
    except (Refused, BadInput) as fault:
        return Finding("limits", Verdict.FAULT, "; ".join(str(fault).splitlines()))
    except LauncherError as fault:
        return Finding("limits", Verdict.FAULT, f"the ledger cannot be read: {fault}")
    told = [
        f"{spent:.2f} usd {what}" + (", no limit set" if limit is None else f" of {limit:.2f}")
        for spent, what, limit in (
            (now.month_usd, f"spent and committed {now.month}", limits.max_usd_per_month),
            (now.open_usd, "committed at once", limits.max_usd_at_once),
        )
    ]
    return Finding("limits", Verdict.OK, "; ".join(told))


# --- providers -------------------------------------------------------------------------------------------------------


def _has_access(provider: Provider) -> SourceFailed | None:
    """None, or why this provider cannot be asked."""
    try:
        access(provider)
    except SourceFailed as fault:
        return fault
    return None


def _keys(occasion: Occasion) -> Iterator[Finding]:
    """The providers that cannot be used; a fault only if none of those that would do can."""
    missing = {provider: why for provider in occasion.providers if (why := _has_access(provider)) is not None}
    verdict = Verdict.FAULT if len(missing) == len(occasion.providers) else Verdict.NOTE
    for provider, why in missing.items():
        yield Finding(f"{provider} key", verdict, str(why))


Answer = tuple[Verdict, str]


def _questions(occasion: Occasion) -> dict[str, Callable[[], Answer]]:
    """Everything that somebody else must be asked, by what it is about."""
    questions: dict[str, Callable[[], Answer]] = {}
    for provider in occasion.providers:
        if _has_access(provider) is None:
            questions[f"{provider} key"] = partial(_key, provider)
            questions[f"{provider} balance"] = partial(_balance, provider, occasion.worst_case_usd)
            questions[f"{provider} quota"] = partial(_quota, provider, occasion.usd_per_hour)
            questions[f"{provider} clock"] = partial(_clock, provider)
    for model_id, revision in dict.fromkeys(occasion.models):
        questions[f"model {model_id}"] = partial(_model, model_id, revision)
    return questions


def _key(provider: Provider) -> Answer:
    try:
        machines = list_rentals(provider)
    except ProviderFailed as fault:
        refused = fault.status in (401, 403)
        return (Verdict.FAULT if refused else Verdict.NOT_CHECKED), fault.reason
    return Verdict.OK, f"accepted; {len(machines)} machines rented there now"


def _balance(provider: Provider, worst_case_usd: float | None) -> Answer:
    try:
        usd = balance(provider)
    except ProviderFailed as fault:
        return Verdict.NOT_CHECKED, fault.reason
    if usd is None:
        return Verdict.NOT_CHECKED, f"{provider} does not tell what is on the account"
    if worst_case_usd is None:
        return (Verdict.OK if usd > 0 else Verdict.FAULT), f"{usd:.2f} usd"
    if usd < worst_case_usd:
        missing = worst_case_usd - usd
        return Verdict.FAULT, f"{usd:.2f} usd; the worst case is {worst_case_usd:.2f}: {missing:.2f} usd are missing"
    return Verdict.OK, f"{usd:.2f} usd, the worst case is {worst_case_usd:.2f}"


def _quota(provider: Provider, usd_per_hour: float | None) -> Answer:
    limit = hourly_limit(provider)
    if limit is None:
        return Verdict.NOT_CHECKED, f"{provider} does not tell what the account may rent"
    told = f"{limit.spending_usd_per_hour:.2f} of {limit.usd_per_hour:.2f} usd an hour in use"
    if limit.spending_usd_per_hour + (usd_per_hour or 0.0) > limit.usd_per_hour:
        wanted = "" if usd_per_hour is None else f"; this launch takes {usd_per_hour:.2f}"
        return Verdict.FAULT, f"{told}{wanted}: ask the provider to raise the limit"
    return Verdict.OK, told


def _clock(provider: Provider) -> Answer:
    skew_s = clock_skew_s(provider)
    off_s = abs(skew_s)
    told = f"this machine's clock is {off_s:.0f} s {'ahead of' if skew_s > 0 else 'behind'} the provider's"
    if off_s <= SKEW_NOTE_S:
        return Verdict.OK, f"within {SKEW_NOTE_S:g} s of the provider's"
    if off_s <= SKEW_FAULT_S:
        return Verdict.NOTE, f"{told}; the ledger is off by as much"
    return Verdict.FAULT, f"{told}; a node would end itself that much too early or too late: set the clock"


def _network(occasion: Occasion, answers: Mapping[str, Answer | SourceFailed]) -> Iterator[Finding]:
    """Which providers can be reached from here at all: those that said what time it is."""
    clocks = {
        provider: answers[f"{provider} clock"] for provider in occasion.providers if f"{provider} clock" in answers
    }
    reached = [provider for provider, answer in clocks.items() if not isinstance(answer, SourceFailed)]
    missed = [provider for provider in clocks if provider not in reached]
    if clocks:
        told = [f"{', '.join(who)}: {what}" for who, what in ((reached, "reached"), (missed, "not reached")) if who]
        verdict = Verdict.OK if not missed else Verdict.NOTE if reached else Verdict.FAULT
        yield Finding("network", verdict, "; ".join(told))


# --- models ----------------------------------------------------------------------------------------------------------


def _model(model_id: str, revision: str) -> Answer:
    if model_id.startswith(BUILTIN_PREFIX) or is_folder_id(model_id):
        try:
            return Verdict.OK, f"on this machine: {model_location(model_id)}"
        except BadInput as fault:
            return Verdict.FAULT, str(fault)
    try:
        model = ask_hub(model_id, revision, TIMEOUT_S)
    except SourceFailed as fault:
        if fault.status in (401, 403, 404):
            way_out = "check model.id and model.revision; a private one needs HF_TOKEN, and one that is accepted"
            return Verdict.FAULT, f"no such model for us at revision {revision!r} (HTTP {fault.status}); {way_out}"
        renamed = " (has it been renamed?)" if fault.status in (301, 302, 307, 308) else ""
        return Verdict.NOT_CHECKED, f"{fault}{renamed}"
    size = "size not told" if model.weights_gib is None else f"{model.weights_gib:.1f} GiB of weights"
    if not model.may_fetch:
        return Verdict.FAULT, (
            f"its licence must be accepted at https://huggingface.co/{model_id}, and HF_TOKEN be a token of that user"
        )
    licence = "; gated, and open to this token" if model.is_gated else ""
    if not _COMMIT.fullmatch(revision):
        pin = f"revision {revision!r} may move; to pin it write model.revision: {model.commit}"
        return Verdict.NOTE, f"{size}{licence}; {pin}"
    return Verdict.OK, f"{size}{licence}; revision {model.commit[:12]} found"
