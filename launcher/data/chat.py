"""A `ToolExample` as chat messages. Only the calls reach the assistant's turn: nothing else is ever trained on."""

from __future__ import annotations

import json
from typing import Any, Literal

from launcher.data.examples import ToolExample


def to_messages(
    example: ToolExample, system_prompt: str, arguments_as: Literal["json", "dict"] = "json"
) -> list[dict[str, Any]]:
    """The example as system, user and assistant message, the calls as the assistant's `tool_calls`.

    Args:
        example: What is asked and the calls that answer it.
        system_prompt: Left out where it is empty.
        arguments_as: `json`: arguments as a JSON text, OpenAI's form. `dict`: as a mapping, which templates need that
            would write a text as an escaped string (Qwen2.5's).
    """
    calls = []
    for number, call in enumerate(example.calls, 1):
        arguments = dict(call.arguments)
        shown = json.dumps(arguments, ensure_ascii=False) if arguments_as == "json" else arguments
        calls.append({"id": f"call_{number}", "type": "function", "function": {"name": call.name, "arguments": shown}})
    return [*prompt_messages(example, system_prompt), {"role": "assistant", "content": "", "tool_calls": calls}]


def prompt_messages(example: ToolExample, system_prompt: str) -> list[dict[str, Any]]:
    """The messages up to where the model has to answer."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": example.instruction}]
