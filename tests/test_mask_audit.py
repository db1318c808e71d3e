"""The mask audit: sound data passes with every template that rented jobs use, and every trap is stopped by its name."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from launcher.data.chat import to_messages
from launcher.data.examples import ToolCall, ToolExample
from launcher.data.prepare import prepare_job
from launcher.errors import BadInput, Refused
from launcher.evaluate.generate import stop_tokens
from launcher.evaluate.parsing import parse_calls
from launcher.job import load_job
from launcher.train import mask_audit, mask_rows
from launcher.train.audit_job import audit_job
from launcher.train.dataset import arguments_form, build_dataset, call_bodies, training_template
from launcher.train.mask_audit import MaskAudit, audit_masks, check_masks
from tests.conftest import ROOT
from tests.small_trainers import (
    EXAMPLES,
    SYSTEM_PROMPT,
    TINY_BASE,
    TOOL_NAMES,
    TOOLS,
    tiny_model,
    tiny_tokenizer,
    tiny_trainer,
)

FAMILIES = ("qwen2_5", "qwen3", "qwen3_instruct_2507")
Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


def template_of(name: str) -> str | None:
    """A chat template TRL ships; None stands for the tiny base's own."""
    if name == "own":
        return None
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model()


@pytest.fixture
def prepare(model: PreTrainedModel, tmp_path: Path) -> Callable[..., SFTTrainer]:
    """A function that gives the trainer of a dataset; nothing is trained, so all share one model."""

    def make(tokenizer: PreTrainedTokenizerBase, dataset: Dataset, **arguments: Any) -> SFTTrainer:
        return tiny_trainer(tmp_path, model, tokenizer, dataset, adapters=False, **({"max_length": 2048} | arguments))

    return make


def audit(
    trainer: SFTTrainer,
    tools: list[dict[str, Any]] | None = None,
    examples: Sequence[ToolExample] = EXAMPLES,
    system_prompt: str = SYSTEM_PROMPT,
    collator: Collator | None = None,
) -> MaskAudit:
    tokenizer = trainer.processing_class
    return audit_masks(
        trainer.train_dataset,
        collator or trainer.data_collator,
        tokenizer,
        examples=examples,
        system_prompt=system_prompt,
        tools=tools,
        tool_names=TOOL_NAMES,
        stops=stop_tokens(trainer.model, tokenizer),
        max_length=trainer.args.max_length,
        packed=trainer.args.packing,
        batch=5,
    )


@pytest.fixture(scope="module")
def sound(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> SFTTrainer:
    return tiny_trainer(tmp_path_factory.mktemp("sound"), model, tiny_tokenizer(), adapters=False)


def reasons(audited: MaskAudit) -> list[str]:
    """The faults without their counts and places."""
    return [fault.split(" (")[0] for fault in audited.faults]


# --- sound data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own", *FAMILIES, *(f"{family}_training" for family in FAMILIES)])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
def test_sound_data_passes_with_each_template(
    prepare: Callable[..., SFTTrainer], name: str, tools: list[dict[str, Any]] | None
) -> None:
    tokenizer = tiny_tokenizer(template_of(name))
    trainer = prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, tools, tokenizer))
    audited = audit(trainer, tools)
    check_masks(audited)
    assert audited.rows_kept == audited.rows_given == len(EXAMPLES)
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
    trained = [sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset]
    assert (audited.tokens, audited.trained_tokens) == (sum(lengths), sum(trained))
    assert (audited.trained_min, audited.trained_max) == (min(trained), max(trained))
    assert audited.longest_row == max(lengths)
    assert 0 < audited.trained_share < 1
    assert audited.sample_context.rstrip().endswith("assistant")
    assert ("<tools>" in audited.sample_context) == (tools is not None)
    answer = audited.sample_trained.strip().removesuffix("<|im_end|>")
    assert parse_calls(answer).calls == EXAMPLES[0].calls
    assert bool(audited.notes) == (name in ("qwen3", "qwen3_training")), "only Qwen3 trains an empty thinking block"
    json.dumps(audited.to_json())


def test_packed_rows_are_audited_example_by_example(prepare: Callable[..., SFTTrainer], sound: SFTTrainer) -> None:
    tokenizer = tiny_tokenizer()
    packed = prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer), packing=True, max_length=300)
    assert len(packed.train_dataset) < len(EXAMPLES)
    audited, unpacked = audit(packed), audit(sound)
    check_masks(audited)
    assert (audited.rows_kept, audited.trained_tokens) == (len(EXAMPLES), unpacked.trained_tokens)
    assert audited.longest_row == max(len(row["input_ids"]) for row in packed.train_dataset)


def test_the_dataset_keeps_messages_and_tools_exactly() -> None:
    dataset = build_dataset(EXAMPLES, SYSTEM_PROMPT, TOOLS, tiny_tokenizer())
    assert [row["messages"] for row in dataset] == [to_messages(e, SYSTEM_PROMPT, "dict") for e in EXAMPLES]
    assert all(row["tools"] == TOOLS for row in dataset)
    keys = [list(row["messages"][-1]["tool_calls"][0]["function"]["arguments"]) for row in dataset]
    assert keys == [list(example.calls[0].arguments) for example in EXAMPLES]


# --- the form of the arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text_is_right"), [("own", True), ("qwen2_5", False), ("qwen3", True)])
def test_mappings_are_right_for_each_family_and_texts_not_for_qwen2_5(name: str, text_is_right: bool) -> None:
    tokenizer = tiny_tokenizer(template_of(name))
    assert arguments_form(tokenizer) == "dict"
    text = tokenizer.apply_chat_template(
        to_messages(EXAMPLES[0], SYSTEM_PROMPT, "json"), chat_template=training_template(tokenizer), tokenize=False
    )
    assert [isinstance(body["arguments"], dict) for body in call_bodies(text)] == [text_is_right]


def test_texts_are_taken_where_a_template_knows_nothing_else() -> None:
    branch = r"\{%- if (\w+)\.arguments is string %\}.*?\{%- endif %\}"
    only_texts, changes = re.subn(branch, r"{{- '' + \1.arguments }}", tiny_tokenizer().chat_template)
    assert changes == 1
    tokenizer = tiny_tokenizer(only_texts)
    assert arguments_form(tokenizer) == "json"


def test_a_template_that_writes_calls_otherwise_is_refused() -> None:
    with pytest.raises(BadInput, match="<tool_call>"):
        arguments_form(tiny_tokenizer(tiny_tokenizer().chat_template.replace("<tool_call>", "<call>")))


def test_a_template_that_marks_no_assistant_turn_is_refused() -> None:
    bare = tiny_tokenizer().chat_template.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    with pytest.raises(BadInput, match="generation"):
        build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tiny_tokenizer(bare))


# --- the traps ----------------------------------------------------------------------------------------------------


def plain_rows(form: str = "json", **columns: Any) -> list[dict[str, Any]]:
    return [{"messages": to_messages(example, SYSTEM_PROMPT, form), **columns} for example in EXAMPLES]


def test_nulls_of_other_tools_arguments(prepare: Callable[..., SFTTrainer]) -> None:
    audited = audit(prepare(tiny_tokenizer(), Dataset.from_list(plain_rows("dict"))))
    assert reasons(audited) == [mask_rows.ANSWER_NULLS]
    assert '"frames": 10' in audited.faults[0] and "null" in audited.faults[0]


def test_arguments_as_escaped_text(prepare: Callable[..., SFTTrainer]) -> None:
    audited = audit(prepare(tiny_tokenizer(template_of("qwen2_5")), Dataset.from_list(plain_rows("json"))))
    assert reasons(audited) == [mask_rows.ESCAPED]


def test_thinking_before_the_calls(prepare: Callable[..., SFTTrainer]) -> None:
    rows = plain_rows()
    for row in rows:
        row["messages"][-1]["reasoning_content"] = "the user wants a call"
    audited = audit(prepare(tiny_tokenizer(template_of("qwen3")), Dataset.from_list(rows)))
    assert reasons(audited) == [mask_rows.UNREADABLE]
    assert "thinking" in audited.faults[0]


def test_end_of_turn_outside_the_trained_part(prepare: Callable[..., SFTTrainer]) -> None:
    own = tiny_tokenizer().chat_template
    moved = own.replace("{%- endgeneration %}", "", 1).replace(
        "{{- '<|im_end|>' }}", "{%- endgeneration %}{{- '<|im_end|>' }}", 1
    )
    tokenizer = tiny_tokenizer(moved)
    audited = audit(prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)))
    assert reasons(audited) == [mask_rows.END_UNTRAINED]


def test_everything_trained(prepare: Callable[..., SFTTrainer]) -> None:
    tokenizer = tiny_tokenizer()
    dataset = build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)
    audited = audit(prepare(tokenizer, dataset, assistant_only_loss=False))
    assert reasons(audited) == [mask_rows.ALL_TRAINED]
    assert audited.trained_share == 1.0


def test_the_users_turn_trained(prepare: Callable[..., SFTTrainer]) -> None:
    own = tiny_tokenizer().chat_template
    marked = own.replace("+ message.content + '<|im_end|>\\n' }}", "}}{%- generation %}{{- message.content }}", 1)
    at = marked.index("{{- message.content }}") + len("{{- message.content }}")
    tokenizer = tiny_tokenizer(marked[:at] + "{%- endgeneration %}{{- '<|im_end|>\\n' }}" + marked[at:])
    audited = audit(prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)))
    assert mask_rows.PROMPT_TRAINED in reasons(audited)


def test_nulls_in_the_tool_schemas(prepare: Callable[..., SFTTrainer]) -> None:
    audited = audit(prepare(tiny_tokenizer(), Dataset.from_list(plain_rows(tools=TOOLS))), TOOLS)
    assert reasons(audited) == [mask_rows.PROMPT_NULLS]


def test_tools_missing_and_tools_in_the_way(prepare: Callable[..., SFTTrainer], sound: SFTTrainer) -> None:
    assert reasons(audit(sound, TOOLS)) == [mask_rows.TOOLS_MISSING]
    tokenizer = tiny_tokenizer()
    with_tools = prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, TOOLS, tokenizer))
    assert reasons(audit(with_tools)) == [mask_rows.TOOLS_PRESENT]


def test_a_template_that_leaves_the_tools_out(prepare: Callable[..., SFTTrainer]) -> None:
    own = tiny_tokenizer().chat_template
    tokenizer = tiny_tokenizer(own.replace("{%- if tools %}", "{%- if false %}", 1))
    audited = audit(prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, TOOLS, tokenizer)), TOOLS)
    assert audited.faults == (f"{mask_rows.TOOLS_MISSING}: {', '.join(TOOL_NAMES)}",)


def test_rows_too_long_for_max_length(prepare: Callable[..., SFTTrainer], sound: SFTTrainer) -> None:
    tokenizer = tiny_tokenizer()
    dataset = build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)
    starts = [next(i for i, label in enumerate(row["labels"]) if label != -100) for row in sound.train_dataset]
    shortened = prepare(tokenizer, dataset, max_length=max(starts) - 2)
    audited = audit(shortened)
    dropped = len(EXAMPLES) - len(shortened.train_dataset)
    assert dropped > 0
    assert audited.faults[0].startswith(f"{dropped} of 12 examples are not in the batches")
    assert mask_rows.CUT in reasons(audited)
    nothing = audit(prepare(tokenizer, dataset, max_length=min(starts) - 2))
    assert (nothing.rows_kept, nothing.trained_min, nothing.trained_share) == (0, 0, 0.0)
    with pytest.raises(Refused, match="12 of 12 examples are not in the batches"):
        check_masks(nothing)


def test_an_answer_cut_off(prepare: Callable[..., SFTTrainer], sound: SFTTrainer) -> None:
    tokenizer = tiny_tokenizer()
    longest = max(len(row["input_ids"]) for row in sound.train_dataset)
    dataset = build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)
    assert reasons(audit(prepare(tokenizer, dataset, max_length=longest - 3))) == [mask_rows.CUT]
    assert not audit(prepare(tokenizer, dataset, max_length=longest)).faults


def test_packing_without_boundaries(prepare: Callable[..., SFTTrainer]) -> None:
    tokenizer = tiny_tokenizer()
    dataset = build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)
    packed = prepare(tokenizer, dataset, packing=True, max_length=300)
    collator = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    assert mask_audit.UNSEPARATED in reasons(audit(packed, collator=collator))
    wrapped = prepare(tokenizer, dataset, packing=True, packing_strategy="wrapped", max_length=300)
    assert mask_audit.UNSEPARATED in reasons(audit(wrapped))


def test_padding_that_is_the_end_of_the_turn(prepare: Callable[..., SFTTrainer]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    audited = audit(prepare(tokenizer, build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tokenizer)))
    assert len(audited.faults) == 1
    assert "must differ" in audited.faults[0]


def test_another_prompt_at_inference(sound: SFTTrainer) -> None:
    audited = audit(sound, system_prompt="You answer with calls of tools.")
    assert reasons(audited) == [mask_rows.PROMPT_DIFFERS]
    assert "of tools" in audited.faults[0]


def test_other_calls_than_the_examples(sound: SFTTrainer) -> None:
    changed = dataclasses.replace(EXAMPLES[3], calls=(ToolCall("emu.run", {"frames": "13"}),))
    audited = audit(sound, examples=(*EXAMPLES[:3], changed, *EXAMPLES[4:]))
    assert reasons(audited) == [mask_rows.WRONG_CALLS]
    assert "(1 of 12 rows" in audited.faults[0]


def spoilt(sound: SFTTrainer, change: Callable[[dict[str, torch.Tensor]], None]) -> Collator:
    """The trainer's collator with something done to its batches."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = sound.data_collator(rows)
        change(batch)
        return batch

    return collate


def label_padding(batch: dict[str, torch.Tensor]) -> None:
    padding = batch["attention_mask"] == 0
    batch["labels"][padding] = batch["input_ids"][padding]


def shift_labels(batch: dict[str, torch.Tensor]) -> None:
    trained = batch["labels"] != -100
    batch["labels"][trained] = batch["input_ids"].roll(-1, dims=1)[trained]


def skip_every_second_label(batch: dict[str, torch.Tensor]) -> None:
    batch["labels"][:, ::2] = -100


def skip_the_first_label(batch: dict[str, torch.Tensor]) -> None:
    first = (batch["labels"] != -100).int().argmax(dim=1)
    batch["labels"][torch.arange(len(first)), first] = -100


def train_nothing(batch: dict[str, torch.Tensor]) -> None:
    batch["labels"][0] = -100


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (label_padding, mask_audit.PADDING_TRAINED),
        (shift_labels, mask_rows.FOREIGN_LABELS),
        (skip_every_second_label, mask_rows.HOLES),
        (skip_the_first_label, mask_rows.START_UNTRAINED),
        (train_nothing, mask_rows.NOTHING_TRAINED),
    ],
)
def test_spoilt_batches(sound: SFTTrainer, change: Callable[[dict[str, torch.Tensor]], None], reason: str) -> None:
    assert reason in reasons(audit(sound, collator=spoilt(sound, change)))


def test_a_refusal_says_every_reason(sound: SFTTrainer) -> None:
    bad = audit(sound, TOOLS, collator=spoilt(sound, skip_every_second_label))
    with pytest.raises(Refused) as caught:
        check_masks(bad)
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [f"mask audit: {fault}" for fault in bad.faults]
    assert len(bad.faults) > 1


# --- whole jobs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("job", "name"), [("veran-tools", "qwen2_5"), ("nayru-editor", "qwen3_instruct_2507")])
def test_a_shipped_job_passes_as_it_would_be_rented(tmp_path: Path, job: str, name: str) -> None:
    """Full system prompt, tools in the prompt, bf16: only the tokenizer's vocabulary is the tiny one."""
    base = tmp_path / "base"
    shutil.copytree(TINY_BASE, base)
    (base / "chat_template.jinja").write_text(str(template_of(name)), encoding="utf-8")
    spec = load_job(ROOT / "jobs" / f"{job}.yaml")
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"id": str(base)})})
    audited = audit_job(spec, prepare_job(spec))
    assert audited.rows_kept == audited.rows_given > 200
    assert audited.notes == ()
    assert '"name": "' in audited.sample_context and spec.system_prompt_text() in audited.sample_context


def test_a_job_whose_prompts_do_not_fit_is_refused() -> None:
    spec = load_job(ROOT / "jobs" / "veran-tools.yaml", "tiny")
    short = spec.model_copy(update={"train": spec.train.model_copy(update={"max_length": 60})})
    with pytest.raises(Refused, match="do not fit max_length 60"):
        audit_job(short, prepare_job(short))
