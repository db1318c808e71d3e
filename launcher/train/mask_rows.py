"""One training row against what it must be: the prompt of inference, then the example's calls, then the end of turn.

The reasons below are what a user reads; docs/mask-audit.md says which trap of the libraries each of them catches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from launcher.data.examples import ToolCall, ToolExample
from launcher.evaluate.parsing import parse_calls
from launcher.train.dataset import call_bodies

IGNORED = -100  # the label of a token that is not trained
SHOWN_TOKENS = 16

NOTHING_TRAINED = "no token is trained"
ALL_TRAINED = "every token is trained, the prompt too: assistant_only_loss is off, or the template marks every turn"
PROMPT_TRAINED = "part of the prompt is trained"
START_UNTRAINED = "the beginning of the answer is not trained"
HOLES = "tokens inside the answer are not trained"
FOREIGN_LABELS = "labels are not the row's own tokens"
PAD_TRAINED = "the padding token is trained"
CUT = "the answer is cut off at max_length"
END_UNTRAINED = "the end of the turn is not trained, so the model would not learn to stop"
PROMPT_DIFFERS = "training shows another prompt than inference gives"
PROMPT_NULLS = "the prompt holds null values that the tools' schemas do not have"
TOOLS_MISSING = "tools are missing from the prompt, where the job puts them"
TOOLS_PRESENT = "tools stand in the prompt, where the job puts none"
ESCAPED = "arguments are trained as an escaped string instead of a JSON object"
ANSWER_NULLS = "arguments of other tools are trained as null"
UNREADABLE = "the trained answer cannot be read as tool calls"
WRONG_CALLS = "the trained answer holds other calls than the example"


@dataclass(frozen=True)
class Row:
    """One example as it stands in a batch, padding left out. Labels are -100 where nothing is trained."""

    tokens: list[int]
    labels: list[int]

    @cached_property
    def trained(self) -> list[int]:
        """The positions whose tokens are trained."""
        return [position for position, label in enumerate(self.labels) if label != IGNORED]


@dataclass(frozen=True)
class RowChecker:
    """What the rows of one job must look like.

    Attributes:
        prompts: for each example the tokens that inference gives the model.
        tools_in_prompt: whether the tools named `tool_names` must stand in the prompt, or none of them may.
        stops: the tokens that end an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    examples: Sequence[ToolExample]
    prompts: Sequence[list[int]]
    tool_names: Sequence[str]
    tools_in_prompt: bool
    stops: Collection[int]
    max_length: int

    def faults(self, row: Row, index: int | None) -> Iterator[tuple[str, str]]:
        """Each fault of a row as its reason and the place in words.

        Args:
            index: the example the row was made from, None where rows were dropped or put in another order.
        """
        if not row.trained:
            yield NOTHING_TRAINED, self.text(row.tokens[-SHOWN_TOKENS:])
        elif len(row.trained) == len(row.tokens):
            yield ALL_TRAINED, self.text(row.tokens[:SHOWN_TOKENS])
        else:
            prompt = self._prompt_of(row, index)
            yield from self._prompt_faults(row, prompt, index)
            yield from self._label_faults(row, prompt)
            yield from self._answer_faults(row, prompt, index)

    def prompt_template_faults(self) -> Iterator[tuple[str, str]]:
        """Faults of the prompt inference gives: a template may leave out the tools it is handed."""
        yield from self._tool_faults(self.text(self.prompts[0]))

    def text(self, tokens: Iterable[int]) -> str:
        """Tokens as evaluation decodes them."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def begins_with_thinking(self, row: Row) -> bool:
        """Whether the trained text opens a <think> block."""
        return self.text(row.tokens[p] for p in row.trained[:SHOWN_TOKENS]).lstrip().startswith("<think>")

    # --- the prompt ----------------------------------------------------------------------------------------------

    @cached_property
    def _examples_of_prompt(self) -> dict[tuple[int, ...], list[ToolExample]]:
        found: dict[tuple[int, ...], list[ToolExample]] = {}
        for prompt, example in zip(self.prompts, self.examples, strict=True):
            found.setdefault(tuple(prompt), []).append(example)
        return found

    @cached_property
    def _prompt_lengths(self) -> list[int]:
        return sorted({len(prompt) for prompt in self.prompts}, reverse=True)

    def _prompt_of(self, row: Row, index: int | None) -> tuple[int, ...] | None:
        """The inference prompt that a row begins with, the longest where several do."""
        if index is not None and row.tokens[: len(self.prompts[index])] == self.prompts[index]:
            return tuple(self.prompts[index])
        beginnings = (tuple(row.tokens[:length]) for length in self._prompt_lengths)
        return next((beginning for beginning in beginnings if beginning in self._examples_of_prompt), None)

    def _prompt_faults(self, row: Row, prompt: tuple[int, ...] | None, index: int | None) -> Iterator[tuple[str, str]]:
        if prompt is not None:
            return
        context = self.text(row.tokens[: row.trained[0]])
        wanted = self.prompts[index or 0]
        same = next((i for i, pair in enumerate(zip(row.tokens, wanted, strict=False)) if pair[0] != pair[1]), 0)
        place = (
            f"training has {self.text(row.tokens[same : same + SHOWN_TOKENS])!r} where inference has "
            f"{self.text(wanted[same : same + SHOWN_TOKENS])!r}"
        )
        tool_faults = list(self._tool_faults(context))
        if tool_faults:
            yield from tool_faults
        elif context.count(": null") > self.text(wanted).count(": null"):
            yield PROMPT_NULLS, place
        else:
            yield PROMPT_DIFFERS, place

    def _tool_faults(self, prompt: str) -> Iterator[tuple[str, str]]:
        there = {name for name in self.tool_names if re.search(rf'"name":\s*"{re.escape(name)}"', prompt)}
        missing = [name for name in self.tool_names if name not in there]
        if self.tools_in_prompt and missing:
            yield TOOLS_MISSING, ", ".join(missing)
        elif not self.tools_in_prompt and there:
            yield TOOLS_PRESENT, ", ".join(sorted(there))

    # --- the labels ----------------------------------------------------------------------------------------------

    def _label_faults(self, row: Row, prompt: tuple[int, ...] | None) -> Iterator[tuple[str, str]]:
        trained = [row.tokens[position] for position in row.trained]
        if trained != [row.labels[position] for position in row.trained]:
            yield FOREIGN_LABELS, self.text(row.labels[position] for position in row.trained[:SHOWN_TOKENS])
        pad = self.tokenizer.pad_token_id
        if pad in trained and pad != self.tokenizer.eos_token_id:
            yield PAD_TRAINED, repr(self.tokenizer.pad_token)
        first, last = row.trained[0], row.trained[-1]
        if last - first + 1 != len(row.trained):
            yield HOLES, self.text(row.tokens[p] for p in range(first, last) if row.labels[p] == IGNORED)
        if prompt is None:
            return
        if self.text(row.tokens[first : len(prompt)]).strip():  # Qwen2.5's template trains the line break before a call
            yield PROMPT_TRAINED, self.text(row.tokens[first : len(prompt)])
        if first > len(prompt):
            yield START_UNTRAINED, self.text(row.tokens[len(prompt) : first])

    # --- the answer ----------------------------------------------------------------------------------------------

    def _answer_positions(self, row: Row, prompt: tuple[int, ...] | None) -> tuple[list[int], bool]:
        """Positions of the trained answer without its end of turn, and whether that end is there."""
        positions = row.trained if prompt is None else [p for p in row.trained if p >= len(prompt)]
        end = len(positions)
        while end and not self.text([row.tokens[positions[end - 1]]]).strip():  # a line break after the end of turn
            end -= 1
        if end and row.tokens[positions[end - 1]] in self.stops:
            return positions[: end - 1], True
        return positions, False

    def _answer_faults(self, row: Row, prompt: tuple[int, ...] | None, index: int | None) -> Iterator[tuple[str, str]]:
        positions, has_end = self._answer_positions(row, prompt)
        answer = self.text(row.tokens[p] for p in positions)
        if not has_end:
            cut = len(row.tokens) >= self.max_length
            yield (CUT, f"{self.max_length} tokens") if cut else (END_UNTRAINED, f"it ends with {answer[-40:]!r}")
            if cut:
                return
        if any(isinstance(body.get("arguments"), str) for body in call_bodies(answer)):
            yield ESCAPED, answer
            return
        parsed = parse_calls(answer)
        if parsed.calls is None:
            yield UNREADABLE, f"{parsed.error}: {answer!r}"
            return
        candidates = self._candidates(prompt, index)
        if _shown(parsed.calls) in {_shown(example.calls) for example in candidates}:
            return
        without_nulls = _shown(ToolCall(call.name, _without_nulls(call)) for call in parsed.calls)
        nulls = without_nulls in {_shown(example.calls) for example in candidates}
        yield (ANSWER_NULLS if nulls else WRONG_CALLS), answer

    def _candidates(self, prompt: tuple[int, ...] | None, index: int | None) -> Sequence[ToolExample]:
        if prompt is not None:
            return self._examples_of_prompt[prompt]
        return self.examples if index is None else [self.examples[index]]


def _shown(calls: Iterable[ToolCall]) -> str:
    return json.dumps([[call.name, dict(call.arguments)] for call in calls], sort_keys=True)


def _without_nulls(call: ToolCall) -> dict[str, object]:
    return {key: value for key, value in call.arguments.items() if value is not None}
