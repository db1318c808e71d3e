"""QLoRA on a CPU: it learns, keeps its gradients through an evaluation, and costs no fp32 copy of the base."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bitsandbytes
import bitsandbytes.nn.modules as bnb_modules
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from launcher.train.dataset import build_dataset
from launcher.train.quantize import nf4_config, repair_cpu_four_bit
from launcher.train.worst_case import worst_case_step
from tests.small_trainers import (
    EXAMPLES,
    SYSTEM_PROMPT,
    TINY_BASE,
    losses,
    tiny_model,
    tiny_tokenizer,
    tiny_trainer,
)

REPAIRED_VERSION = "0.50"
on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="the repair is for machines without accelerator")

Gradients = dict[str, torch.Tensor]


@contextmanager
def as_shipped() -> Iterator[None]:
    """bitsandbytes without our repair: models built inside decide by this machine's CPU."""
    repaired = bnb_modules.has_avx512bf16
    bnb_modules.has_avx512bf16 = has_avx512bf16
    try:
        yield
    finally:
        bnb_modules.has_avx512bf16 = repaired


@pytest.fixture(scope="module", params=[Qwen3Config, Qwen2Config], ids=["without bias (Qwen3)", "with bias (Qwen2)"])
def small_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model on disk; its rows are a multiple of the quantisation block, as those of every real model."""
    torch.manual_seed(0)
    config = request.param(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def with_adapters(folder: Path) -> PeftModel:
    """A model in NF4 with adapters that are not zero, so that every gradient says something."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=nf4_config(torch.float32)
    )
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def gradients_before_and_after_an_evaluation(folder: Path) -> tuple[Gradients, Gradients]:
    model = with_adapters(folder)
    tokens = torch.randint(10, 500, (4, 32), generator=torch.Generator().manual_seed(1))

    def gradients() -> Gradients:
        model.train()
        model.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=tokens)
    return before, gradients()


def test_gradients_after_an_evaluation_equal_those_before(small_base: Path) -> None:
    repair_cpu_four_bit()
    before, after = gradients_before_and_after_an_evaluation(small_base)
    assert len(before) == 2 * 7 * 2, "A and B of seven linear layers in each of two blocks"
    assert all(gradient.abs().max() > 0 for gradient in before.values())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@on_cpu
@pytest.mark.skipif(not has_avx512bf16(), reason="only CPUs with AVX512-BF16 are affected")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_repair_is_still_needed(small_base: Path) -> None:
    with as_shipped():
        try:
            before, after = gradients_before_and_after_an_evaluation(small_base)
        except RuntimeError as refused:  # with a bias, autograd notices that the weights were changed in place
            assert "in-place" in str(refused)
            return
    wrong = [n for n in before if not torch.allclose(before[n], after[n], rtol=1e-2, atol=1e-6)]
    assert wrong, "bitsandbytes no longer spoils gradients after an evaluation: repair_cpu_four_bit can go"


@on_cpu
def test_the_repair_was_written_for_this_version(small_base: Path) -> None:
    assert bitsandbytes.__version__.startswith(f"{REPAIRED_VERSION}."), (
        "another version of bitsandbytes: see whether Linear4bit.forward still repacks weights where has_avx512bf16() "
        "says so, then set REPAIRED_VERSION or drop repair_cpu_four_bit"
    )
    repair_cpu_four_bit()
    assert (
        not with_adapters(small_base).base_model.model.model.layers[0].mlp.up_proj.base_layer.support_avx512bf16_for_cpu
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_it_learns_through_trl_with_evaluations_in_between(tmp_path: Path, checkpointing: bool) -> None:
    model = tiny_model(quantised=True)
    examples = build_dataset(EXAMPLES, SYSTEM_PROMPT, None, tiny_tokenizer())
    trainer = tiny_trainer(
        tmp_path, model, max_steps=15, learning_rate=5e-3, gradient_checkpointing=checkpointing,
        eval_strategy="steps", eval_steps=5, trainer_options={"eval_dataset": examples},
    )  # fmt: skip
    base = {n: p for n, p in trainer.model.named_parameters() if not p.requires_grad}
    bits = {n: p.data.view(torch.uint8).clone() for n, p in base.items()}  # as floats, packed bits may be NaN
    worst_case_step(trainer, 160, 4)
    trainer.train()
    curve = losses(trainer)
    assert len(curve) == 15
    assert sum(curve[-3:]) < 0.7 * sum(curve[:3])
    evaluations = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert evaluations == sorted(evaluations, reverse=True)
    assert all(torch.equal(p.data.view(torch.uint8), bits[n]) for n, p in base.items()), "the base is frozen"
    assert any(isinstance(p, bitsandbytes.nn.Params4bit) for p in base.values())
    trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    assert trained == {torch.bfloat16}, "TRL holds the adapters of a 4-bit model in bf16"


def test_weights_are_four_bits_each_and_the_rest_keeps_its_precision() -> None:
    repair_cpu_four_bit()
    model = AutoModelForCausalLM.from_pretrained(
        TINY_BASE, dtype=torch.bfloat16, quantization_config=nf4_config(torch.bfloat16)
    )
    up = model.model.layers[0].mlp.up_proj
    assert up.weight.quant_state.quant_type == "nf4"
    assert up.weight.quant_state.nested, "double quantisation"
    assert up.weight.dtype == torch.bfloat16
    assert up.weight.numel() * up.weight.element_size() == up.in_features * up.out_features // 2
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.model.norm.weight.dtype == torch.bfloat16


def test_the_line_about_a_missing_kernel_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert "kernels-community" not in shown
    assert "something else" in shown
