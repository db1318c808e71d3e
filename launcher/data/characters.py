"""Tokens of a job's rows from their characters, for a model whose tokenizer is not on this machine.

The table was measured: each model's own `tokenizer.json` (Qwen3, whose merges are Qwen2.5's; Llama 3.1; Llama 2;
Gemma 3; gpt-oss) over text of each kind, one figure a corpus; low and high are the extremes over the corpora, mid their
median. Corpora, 2.6 million characters in all. Prose: the built-in instructions, tau-bench's turns and policies, the
questions of When2Call and Seal-Tools, the conversations of a tool-call set, this project's documents. Schema: the tools
of the built-in examples, BFCL, Seal-Tools and that set. Call: the calls of these. Code: this project's, its templates,
torch.optim. docs/calibration.md sets estimates beside exact counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.data.chat import prompt_messages
from launcher.data.examples import ToolExample
from launcher.data.token_count import RowCounts, histogram, pack_lengths

Kind = Literal["prose", "schema", "call", "code"]


@dataclass(frozen=True)
class Ratio:
    """Characters per token: the densest text seen, the median, the lightest."""

    low: float
    mid: float
    high: float


TABLE: dict[str, dict[Kind, Ratio]] = {
    "Qwen 2.5 and 3": {
        "prose": Ratio(3.13, 3.92, 4.87),
        "schema": Ratio(3.33, 3.85, 4.02),
        "call": Ratio(2.74, 3.08, 3.75),
        "code": Ratio(3.17, 3.96, 4.32),
    },
    "Llama 3": {
        "prose": Ratio(3.47, 4.13, 4.92),
        "schema": Ratio(3.38, 3.86, 4.05),
        "call": Ratio(2.89, 3.32, 4.11),
        "code": Ratio(3.29, 4.00, 4.35),
    },
    "Llama 2": {
        "prose": Ratio(2.80, 3.59, 4.47),
        "schema": Ratio(3.12, 3.49, 3.71),
        "call": Ratio(2.39, 2.68, 3.39),
        "code": Ratio(2.56, 3.14, 3.36),
    },
    "Gemma 3": {
        "prose": Ratio(2.93, 3.89, 4.78),
        "schema": Ratio(3.31, 3.69, 3.96),
        "call": Ratio(2.53, 3.01, 3.67),
        "code": Ratio(2.91, 3.43, 3.66),
    },
    "gpt-oss": {
        "prose": Ratio(3.46, 4.21, 4.93),
        "schema": Ratio(3.36, 3.86, 4.06),
        "call": Ratio(2.89, 3.31, 4.06),
        "code": Ratio(3.29, 3.99, 4.31),
    },
}
ANY_FAMILY = "any"
# CodeLlama has Llama 2's tokenizer. Mistral, Mixtral and DeepSeek have others: they take the row for any model.
_FAMILIES = (
    ("Qwen 2.5 and 3", r"qwen-?[23](?!\d)"),
    ("Llama 3", r"llama-?3(?!\d)"),
    ("Llama 2", r"llama-?2(?!\d)|codellama"),
    ("Gemma 3", r"gemma-?3(?!\d)"),
    ("gpt-oss", r"gpt-oss"),
)

# A turn's frame, `<|im_start|>role\n` and `<|im_end|>\n` in ChatML; Llama 3's has as many tokens.
FRAME_TOKENS = 5
# What Qwen2.5's template says around the tool schemas, characters of prose (a model's own template may say less).
TOOLS_PREAMBLE = 373
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def family_of(model_id: str) -> str:
    """The row of the table for a model's tokenizer; `any`, which spans all rows, where it is not known."""
    return next((family for family, name in _FAMILIES if re.search(name, model_id.lower())), ANY_FAMILY)


def ratios(family: str) -> dict[Kind, Ratio]:
    """Characters per token of a family by kind of text; for any model the extremes of all rows and their median mid."""
    if family in TABLE:
        return TABLE[family]
    kinds: tuple[Kind, ...] = ("prose", "schema", "call", "code")
    return {kind: _spanning([row[kind] for row in TABLE.values()]) for kind in kinds}


def _spanning(rows: Sequence[Ratio]) -> Ratio:
    mids = sorted(row.mid for row in rows)
    return Ratio(min(row.low for row in rows), mids[len(mids) // 2], max(row.high for row in rows))


@dataclass(frozen=True)
class Text:
    """Characters by kind, and the tokens of the frame around them."""

    characters: dict[Kind, int]
    frame_tokens: int

    def plus(self, other: Text) -> Text:
        """Both together."""
        kinds = {**self.characters, **other.characters}
        both: dict[Kind, int] = {k: self.characters.get(k, 0) + other.characters.get(k, 0) for k in kinds}
        return Text(both, self.frame_tokens + other.frame_tokens)

    def tokens(self, table: dict[Kind, Ratio], side: Literal["low", "mid", "high"] = "mid") -> float:
        """Tokens with the characters per token of one side of the table: `low` gives the most tokens."""
        return self.frame_tokens + sum(n / getattr(table[kind], side) for kind, n in self.characters.items())


def estimate_rows(
    examples: Sequence[ToolExample],
    system_prompt: str,
    tools: list[dict[str, Any]] | None,
    *,
    model_id: str,
    max_length: int,
    packing: bool,
) -> RowCounts:
    """The rows training would make of these examples, from the characters of their rendered text.

    Rows are cut to `max_length`, and those whose answer lies beyond it are dropped, as the trainer does.
    """
    family = family_of(model_id)
    table = ratios(family)
    head = _head(tools)
    prompts = [head.plus(_turns(prompt_messages(example, system_prompt))) for example in examples]
    answers = [_answer(example) for example in examples]
    pairs = [(round(p.tokens(table)), round(a.tokens(table))) for p, a in zip(prompts, answers, strict=True)]
    kept = [(p, min(a, max_length - p)) for p, a in pairs if p < max_length]
    lengths = [prompt + answer for prompt, answer in kept]
    everything = Text({}, 0)
    for text in (*prompts, *answers):
        everything = everything.plus(text)
    most, mid, fewest = (everything.tokens(table, side) for side in ("low", "mid", "high"))
    characters = sum(everything.characters.values())
    return RowCounts(
        lengths=histogram(pack_lengths(lengths, max_length) if packing else lengths),
        trained_tokens=sum(answer for _, answer in kept),
        prompt_tokens=_mean(prompt for prompt, _ in kept),
        answer_tokens=_mean(answer for _, answer in kept),
        is_padded=not packing,
        source=f"estimated, {characters / most:.2f} to {characters / fewest:.2f} characters per token ({_row(family)})",
        low=fewest / mid,
        high=most / mid,
    )


def _row(family: str) -> str:
    return "the span of all known tokenizers" if family == ANY_FAMILY else f"measured for {family}"


def _head(tools: list[dict[str, Any]] | None) -> Text:
    """What the template writes before the first turn: the tools and how to call them."""
    if tools is None:
        return Text({}, 0)
    return Text({"schema": sum(len(json.dumps(tool)) + 1 for tool in tools), "prose": TOOLS_PREAMBLE}, 0)


def _turns(messages: Iterable[dict[str, Any]]) -> Text:
    text = Text({}, 0)
    for message in messages:
        code = sum(map(len, _FENCED.findall(message["content"])))
        text = text.plus(Text({"prose": len(message["content"]) - code, "code": code}, FRAME_TOKENS))
    return text


def _answer(example: ToolExample) -> Text:
    """The assistant's turn: every call as `<tool_call>` with a JSON object."""
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in example.calls]
    written = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
    return Text({"call": len(written)}, FRAME_TOKENS)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
