"""Batched greedy generation with timing; leaves model, tokenizer and random state as they were.

The dtype is the model's own. On a CPU load it in fp32: bf16 is slower there and gives other answers.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

Messages = Sequence[dict[str, Any]]
Progress = Callable[[int], None]

END_OF_TURN = "<|im_end|>"
MARGIN = 1.3  # a wrong answer may be longer than the right one; a few runaways would decide the time of a batch
MARGIN_TOKENS = 8  # the end of the turn, and an empty thinking block
FIRST_TOKEN_PROMPTS = 5

# Said outright, because what is left out is filled from the model's own file: Qwen's ask for sampling and a penalty.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Generation:
    """Answers in the order of the prompts. `new_tokens` counts ends of turn; the batched run took `seconds`.

    `time_to_first_token_s` is the median over a few prompts alone, None where it was not measured.
    """

    texts: list[str]
    new_tokens: int
    seconds: float
    time_to_first_token_s: float | None

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.seconds if self.seconds > 0 else 0.0


def cap_new_tokens(tokenizer: PreTrainedTokenizerBase, gold_texts: Iterable[str]) -> int:
    """How long an answer may get: the longest right answer and 30 %."""
    longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in gold_texts)
    return math.ceil(MARGIN * longest) + MARGIN_TOKENS


def generate_answers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    tools: list[dict[str, Any]] | None = None,
    batch_size: int,
    max_new_tokens: int,
    progress: Progress | None = None,
    measure_first_token: bool = True,
) -> Generation:
    """Answer every prompt greedily; an answer that reaches `max_new_tokens` counts as it stands.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        prompts: chat messages up to the user's turn, at least one prompt.
        tools: function schemas for the chat template, None to leave them out of the prompt.
        progress: told the number of prompts done, after each batch.
    """
    rows = prompt_tokens(tokenizer, prompts, tools)
    stops = stop_tokens(model, tokenizer)
    settings = GenerationConfig(
        **GREEDY, use_cache=True, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    # Longest first: rows of a batch are alike, and what does not fit the memory fails at once.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    answers: dict[int, list[int]] = {}
    with _inference(model):
        first_token = (
            _first_token_seconds(model, tokenizer, [rows[i] for i in order], settings) if measure_first_token else None
        )
        began = _now(model)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            answers.update(
                zip(batch, _generate_batch(model, tokenizer, [rows[i] for i in batch], settings), strict=True)
            )
            if progress is not None:
                progress(len(batch))
        seconds = _now(model) - began
    decoded = [_decode(tokenizer, answers[i], stops) for i in range(len(rows))]
    return Generation(decoded, sum(map(len, answers.values())), seconds, first_token)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Messages], tools: list[dict[str, Any]] | None
) -> list[list[int]]:
    """What the model is given to answer: the chat template's prompt, up to where the assistant's turn begins."""
    texts = (
        tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=True)
        for messages in prompts
    )
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def stop_tokens(model: torch.nn.Module | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer: the chat template's end of turn, the tokenizer's end, the model's own list."""
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = {tokenizer.get_added_vocab().get(END_OF_TURN), tokenizer.eos_token_id}
    stops |= set(of_model) if isinstance(of_model, list) else {of_model}
    return sorted(token for token in stops if token is not None)


def _generate_batch(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], settings: GenerationConfig
) -> list[list[int]]:
    """New tokens of each row, up to and with the first that ends the answer."""
    # Given here, so that the tokenizer keeps the side it pads on in training.
    padded = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(_device(model))
    output = model.generate(
        input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], generation_config=settings
    )
    return [_until_stop(row, settings.eos_token_id) for row in output[:, padded["input_ids"].shape[1] :].tolist()]


def _until_stop(tokens: list[int], stops: list[int]) -> list[int]:
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:end]


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: list[int]) -> str:
    # Special tokens inside an answer are kept: they make it no call, and in some tokenizers <tool_call> is one of them.
    kept = tokens[:-1] if tokens and tokens[-1] in stops else tokens
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _first_token_seconds(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], settings: GenerationConfig
) -> float:
    """Median seconds from a tokenized prompt to its first new token, prompts one at a time, spread over the lengths."""
    one_token = copy.deepcopy(settings)
    one_token.max_new_tokens = 1
    count = min(FIRST_TOKEN_PROMPTS, len(rows))
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    seconds = []
    for row in [chosen[0], *chosen]:  # the first once more: it pays for what is set up lazily
        began = _now(model)
        _generate_batch(model, tokenizer, [row], one_token)
        seconds.append(_now(model) - began)
    return statistics.median(seconds[1:])


@contextmanager
def _inference(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient checkpointing; every module's mode and the random state are put back after.

    A training curve may not depend on whether an evaluation ran in between.
    """
    modes = {module: module.training for module in model.modules()}
    checkpointing = [module for module in model.modules() if vars(module).get("gradient_checkpointing")]
    device = _device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            for module in checkpointing:
                module.gradient_checkpointing = False
            yield
        finally:
            for module in checkpointing:
                module.gradient_checkpointing = True
            for module, training in modes.items():
                module.training = training


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _now(model: torch.nn.Module) -> float:
    if _device(model).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
