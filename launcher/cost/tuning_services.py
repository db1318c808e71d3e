"""Where a language model can still be fine-tuned as a service: the one table of what is sold, and until when.

Dates are the providers' own; `source` says where each was read, all on `CHECKED`. What could not be verified says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

CHECKED = date(2026, 11, 21)


class Customer(StrEnum):
    """What somebody has bought of the service before; it decides who may still train."""

    NEW = "new"
    LAPSED = "lapsed"  # has tuned there, but has not used a tuned model for 60 days
    ACTIVE = "active"


@dataclass(frozen=True, kw_only=True)
class TuningService:
    """One provider's fine-tuning as a service.

    until: the first day on which a customer of that kind can no longer start a job; a kind left out can without an
    announced end. nothing: the service does not exist for this provider's present models, whoever asks.
    """

    provider: str
    service: str
    until: dict[Customer, date]
    note: str
    source: str
    nothing: bool = False

    def sold(self, customer: Customer, today: date) -> bool:
        """Whether this customer can start a job on that day."""
        return not self.nothing and (customer not in self.until or today < self.until[customer])

    def why_not(self, customer: Customer, today: date) -> str | None:
        """Why not, in one line; None where it is sold."""
        if self.sold(customer, today):
            return None
        reason = self.note if self.nothing else f"no new jobs of {customer} customers since {self.until[customer]}"
        return f"{self.service}: {reason} ({self.source}; read {CHECKED})"

    def ends_soon(self, customer: Customer, today: date, within: timedelta = timedelta(days=365)) -> date | None:
        """The day it ends for this customer where that day is announced and near."""
        day = self.until.get(customer)
        return day if day is not None and today < day <= today + within else None


SERVICES = {
    service.provider: service
    for service in (
        TuningService(
            provider="openai",
            service="OpenAI self-serve fine-tuning",
            until={
                Customer.NEW: date(2026, 5, 7),
                Customer.LAPSED: date(2026, 7, 2),
                Customer.ACTIVE: date(2027, 1, 6),
            },
            note="tuned models answer until their base model is shut down, for gpt-4o and gpt-4.1 on 2027-01-14",
            source="developers.openai.com/api/docs/deprecations, 'Update to OpenAI's self-serve fine-tuning'",
        ),
        TuningService(
            provider="claude",
            service="fine-tuning of Claude",
            until={},
            note=(
                "Anthropic sells no self-serve fine-tuning of a present Claude model; Amazon Bedrock tuned Claude 3 "
                "Haiku alone (us-west-2), whose end of life there was 2026-09-10; whether Bedrock still lists it for "
                "customers with private terms could not be verified"
            ),
            source=(
                "docs.aws.amazon.com/bedrock/latest/userguide/custom-model-fine-tuning and "
                "model-card-anthropic-claude-3-haiku; platform.claude.com/cookbook/finetuning-finetuning-on-bedrock"
            ),
            nothing=True,
        ),
        TuningService(
            provider="gemini",
            service="supervised tuning of Gemini on Google Cloud",
            until={},
            note="Gemini 3.5 Flash and Flash-Lite, 3.1 Flash-Lite and 2.5 are listed; not in the Gemini API itself",
            source="docs.cloud.google.com/gemini-enterprise-agent-platform/reference/models/tuning",
        ),
        TuningService(
            provider="open",
            service="LoRA tuning of open models at a host, such as Together AI",
            until={},
            note="a tuned model is served on a dedicated endpoint, billed by the minute",
            source="docs.together.ai/docs/fine-tuning/supported-models and /pricing",
        ),
    )
}
