"""Generation with the shipped tiny base: the same answers however they are batched, and nothing changed behind it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import launcher
from launcher.evaluate.generate import MARGIN_TOKENS, cap_new_tokens, generate_answers

TINY_BASE = Path(launcher.__file__).parent / "assets" / "tiny-base"
INSTRUCTIONS = [
    "Read 16 bytes at 0x7E0010",
    "Run 60 frames",
    "Take a screenshot to out/a.png and then load zelda3.sfc, please, as soon as you can",
    "Load zelda3.sfc",
    "Export room 12 of zelda3.sfc to rooms/12.bin",
]
PROMPTS = [[{"role": "user", "content": text}] for text in INSTRUCTIONS]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_BASE)


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_BASE, dtype=torch.float32)


def answers(model, tokenizer, prompts=PROMPTS, batch_size=2, max_new_tokens=24, **options):
    return generate_answers(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens, **options)


def test_answers_come_in_the_order_of_the_prompts_and_do_not_depend_on_the_batch(model, tokenizer):
    alone = [answers(model, tokenizer, [prompt], batch_size=1).texts[0] for prompt in PROMPTS]
    assert len(set(alone)) > 1
    for batch_size in (2, 64):
        assert answers(model, tokenizer, batch_size=batch_size).texts == alone


def test_figures_and_progress(model, tokenizer):
    done = []
    result = answers(model, tokenizer, progress=done.append)
    assert done == [2, 2, 1]
    assert 0 < result.new_tokens <= 24 * len(PROMPTS)
    assert result.tokens_per_second == pytest.approx(result.new_tokens / result.seconds)
    assert result.time_to_first_token_s > 0
    assert answers(model, tokenizer, measure_first_token=False).time_to_first_token_s is None


def test_the_cap_cuts_runaways_and_the_rest_is_kept(model, tokenizer):
    short, long = (answers(model, tokenizer, max_new_tokens=cap) for cap in (3, 24))
    assert short.new_tokens == 3 * len(PROMPTS)
    assert all(full.startswith(cut) for cut, full in zip(short.texts, long.texts, strict=True))


def test_an_answer_ends_before_any_stop_token_the_model_names(model, tokenizer):
    full = answers(model, tokenizer, PROMPTS[:1]).texts[0]
    quote = next(t for t in tokenizer(full, add_special_tokens=False)["input_ids"][2:])
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, quote]
    cut = answers(model, tokenizer, PROMPTS[:1])
    assert full.startswith(cut.texts[0])
    assert len(cut.texts[0]) < len(full)
    assert cut.new_tokens <= 3


def test_what_the_model_file_says_of_sampling_is_not_followed(model, tokenizer):
    expected = answers(model, tokenizer).texts
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=5.0, num_beams=2)
    assert answers(model, tokenizer).texts == expected


def test_nothing_is_changed_behind_it(model, tokenizer):
    expected = answers(model, tokenizer).texts
    model.train()
    model.model.layers[1].eval()
    model.config.use_cache = False
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    modes = [module.training for module in model.modules()]
    side, tokenizer.padding_side = tokenizer.padding_side, "right"
    random_state = torch.get_rng_state()

    assert answers(model, tokenizer).texts == expected

    assert torch.equal(torch.get_rng_state(), random_state)
    assert tokenizer.padding_side == "right"
    tokenizer.padding_side = side
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False
    assert model.is_gradient_checkpointing


def test_the_model_is_put_back_when_generation_fails(model, tokenizer):
    model.train()

    def fail(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers(model, tokenizer, progress=fail)
    assert all(module.training for module in model.modules())


def test_a_training_step_is_the_same_whether_or_not_answers_were_generated_before(model, tokenizer):
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear"))
    rows = tokenizer("Run 60 frames", return_tensors="pt")["input_ids"]

    def gradients():
        tuned.zero_grad()
        tuned(input_ids=rows, labels=rows).loss.backward()
        return [p.grad.clone() for p in tuned.parameters() if p.grad is not None]

    tuned.train()
    torch.manual_seed(3)
    expected = gradients()
    torch.manual_seed(3)
    answers(tuned, tokenizer, PROMPTS[:2])
    with tuned.disable_adapter():
        answers(tuned, tokenizer, PROMPTS[:2])
    assert all(map(torch.equal, gradients(), expected))


def test_tools_reach_the_prompt_only_where_they_are_given(model, tokenizer, monkeypatch):
    seen = []
    render = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: seen.append(render(*a, **k)) or seen[-1])
    tool = {"type": "function", "function": {"name": "mesen2.run", "parameters": {"type": "object", "properties": {}}}}
    answers(model, tokenizer, PROMPTS[:1], tools=[tool], measure_first_token=False)
    answers(model, tokenizer, PROMPTS[:1], measure_first_token=False)
    assert ["mesen2.run" in text for text in seen] == [True, False]
    assert all(text.endswith("<|im_start|>assistant\n") for text in seen)


def test_the_cap_is_the_longest_right_answer_and_a_third(tokenizer):
    texts = ["a b", "one two three four five six seven eight"]
    longest = len(tokenizer(texts[1], add_special_tokens=False)["input_ids"])
    assert 1.3 * longest <= cap_new_tokens(tokenizer, texts) <= 1.3 * longest + 1 + MARGIN_TOKENS
