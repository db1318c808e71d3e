"""Examples as the dataset TRL trains on, in the form that survives Arrow and the model's chat template.

Arrow gives every row all keys of all rows, with null where a row has none, and the template then writes those nulls
into the prompt and the answer. JSON columns keep every message and every tool schema exactly as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from datasets import Dataset, Features, Json, List
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from trl import get_training_chat_template
from trl.chat_template_utils import has_generation_markers

from launcher.data.chat import to_messages
from launcher.data.examples import ToolCall, ToolExample
from launcher.errors import BadInput
from launcher.evaluate.parsing import OPEN

ArgumentsForm = Literal["json", "dict"]
PROBE = ToolExample(
    id="probe",
    instruction="Call the tool.",
    calls=(ToolCall("probe.call", {"text": 'a "quoted" value', "number": 7}),),
    template="probe",
    source="probe",
)


def build_dataset(
    examples: Sequence[ToolExample],
    system_prompt: str,
    tools: list[dict[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Dataset:
    """One row per example: `messages` (system, user, assistant with tool calls) and, where given, `tools`.

    Args:
        tools: function schemas that the template writes into the prompt; None leaves them out.

    Raises:
        BadInput: the model's chat template cannot be trained on.
    """
    form = arguments_form(tokenizer)
    columns: dict[str, list[Any]] = {"messages": [to_messages(example, system_prompt, form) for example in examples]}
    if tools is not None:
        columns["tools"] = [tools] * len(examples)
    return Dataset.from_dict(columns, features=Features({name: List(Json()) for name in columns}))


def training_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template TRL trains with: the tokenizer's own, or TRL's version of it that marks the assistant's turn.

    Raises:
        BadInput: it marks no assistant turn, and TRL knows no version of it that does.
    """
    if has_generation_markers(tokenizer.chat_template):
        return str(tokenizer.chat_template)
    try:
        return get_training_chat_template(tokenizer) or str(tokenizer.chat_template)
    except ValueError:
        raise BadInput(
            "model.id: the chat template marks no assistant turn, so the loss cannot be kept to the answers; put "
            "{% generation %} and {% endgeneration %} around the assistant's text, or use a model TRL has a training "
            "template for (Qwen2.5, Qwen3, ...)"
        ) from None


def arguments_form(tokenizer: PreTrainedTokenizerBase) -> ArgumentsForm:
    """How a call's arguments must be given so that the template writes them as a JSON object.

    Decided by rendering a call. A mapping (`dict`) is right for Qwen2.5, Qwen3 and most others, which is why it is
    tried first; a JSON text (`json`) is written by Qwen2.5 as an escaped string, `"{\\"frames\\": 426}"`.

    Raises:
        BadInput: the template writes neither as `<tool_call>` with an object of arguments, which evaluation reads.
    """
    template = training_template(tokenizer)
    forms: tuple[ArgumentsForm, ...] = ("dict", "json")
    for form in forms:
        try:
            text = tokenizer.apply_chat_template(
                to_messages(PROBE, "", form), chat_template=template, tokenize=False, add_generation_prompt=False
            )
        except (TemplateError, TypeError):  # some templates add the arguments to a text, others read keys of a mapping
            continue
        if [body.get("arguments") for body in call_bodies(text)] == [dict(PROBE.calls[0].arguments)]:
            return form
    raise BadInput(
        "model.id: the chat template does not write tool calls as <tool_call> with a JSON object of name and "
        "arguments, the form in which answers are evaluated; use a Qwen2.5 or Qwen3 instruct model"
    )


def call_bodies(text: str) -> Iterator[dict[str, Any]]:
    """The JSON object behind every `<tool_call>` of a text, as written; what is no JSON object is left out."""
    start = text.find(OPEN)
    while start >= 0:
        start += len(OPEN)
        try:
            body, _ = json.JSONDecoder().raw_decode(text, len(text) - len(text[start:].lstrip()))
        except (json.JSONDecodeError, RecursionError):
            body = None
        if isinstance(body, dict):
            yield body
        start = text.find(OPEN, start)
