"""The tiny base model: tokenizer and template, text, that the recipe makes it, and what the shipped one can do."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from launcher.data.chat import prompt_messages
from launcher.data.guard import phrasing_skeleton, request_skeleton
from launcher.data.pool import load_pool, load_training
from launcher.data.prepare import prepare
from launcher.data.tools import load_tools
from launcher.data.values import SYMBOLS
from launcher.evaluate.generate import generate_answers
from launcher.evaluate.parsing import parse_calls
from launcher.models import BUILTIN_MODELS
from launcher.tinybase import pretrain
from launcher.tinybase.corpus import MAIN, OPENING, Document, Writer, sample_documents
from launcher.tinybase.english import VERBS, gerund, participle
from launcher.tinybase.model import new_model
from launcher.tinybase.tokenizer import VOCABULARY_SIZE
from launcher.tinybase.values import invented_facts

SHIPPED = BUILTIN_MODELS["builtin:tiny-base"]
FIRST_LOSSES = Path(__file__).parent / "data" / "tiny_base_first_losses.json"
VALUE = r"(0x[0-9A-F]{2,6}|[0-9]{1,4}|[a-z]{1,8}/[a-z]{1,8}(_v)?[0-9]{0,3}\.(png|sfc))"
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
CALL = {"name": "lamp.write", "arguments": {"target": "0x7E00", "value": 3}}
CONVERSATION = [
    {"role": "system", "content": "You are a lamp assistant."},
    {"role": "user", "content": "put 3 in the lamp"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": "done"},
    {"role": "assistant", "content": "It shines."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [*sample_documents("test", 3000), *sample_documents("test-opening", 1000, OPENING)]


class TestTokenizer:
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    def test_text_survives(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)

    @given(
        st.from_regex(r"(0x[0-9A-F]{2,6}|[0-9]{1,4}|[a-z]{1,8}/[a-z]{1,8}(_v)?[0-9]{0,3}\.(png|sfc))", fullmatch=True)
    )
    def test_a_value_has_the_same_tokens_in_a_request_and_in_json(
        self, tokenizer: PreTrainedTokenizerBase, value: str
    ) -> None:
        alone = tokenizer.tokenize(value)
        for text in (f"Read {value} now", json.dumps({"path": value, "length": 1})):
            tokens = tokenizer.tokenize(text)
            assert any(tokens[i : i + len(alone)] == alone for i in range(len(tokens)))

    def test_end_differs_from_padding_and_tags_survive_decoding(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert len(tokenizer) == VOCABULARY_SIZE
        assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token
        ids = tokenizer("<tool_call>\n{}\n</tool_call><|im_end|>")["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>\n{}\n</tool_call>"

    def test_only_the_assistants_turns_are_marked_for_training(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rendered = tokenizer.apply_chat_template(CONVERSATION, return_assistant_tokens_mask=True, return_dict=True)
        trained = [i for i, mark in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mark]
        call = f'<tool_call>\n{{"name": "lamp.write", "arguments": {json.dumps(CALL["arguments"])}}}\n</tool_call>'
        assert tokenizer.decode(trained) == f"{call}<|im_end|>It shines.<|im_end|>"

    def test_arguments_as_json_text_are_rendered_as_the_mapping_is(self, tokenizer: PreTrainedTokenizerBase) -> None:
        as_text = {"name": CALL["name"], "arguments": json.dumps(CALL["arguments"])}
        other = [*CONVERSATION[:2], {"role": "assistant", "content": "", "tool_calls": [{"function": as_text}]}]
        rendered = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in (CONVERSATION[:3], other)]
        assert rendered[0] == rendered[1]

    def test_tools_and_their_answers_are_rendered(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tools = load_tools().functions()[:2]
        text = tokenizer.apply_chat_template(CONVERSATION, tools=tools, tokenize=False)
        system = text.split("<|im_end|>")[0]
        listed = system.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
        assert [json.loads(line) for line in listed] == tools
        assert "<|im_start|>user\n<tool_response>\ndone\n</tool_response><|im_end|>" in text

    def test_the_prompt_of_inference_begins_the_trained_text(self, tokenizer: PreTrainedTokenizerBase) -> None:
        prompt = tokenizer.apply_chat_template(CONVERSATION[:2], add_generation_prompt=True, tokenize=False)
        assert tokenizer.apply_chat_template(CONVERSATION[:3], tokenize=False).startswith(prompt)

    def test_documents_look_as_the_template_writes_chats(self, tokenizer: PreTrainedTokenizerBase) -> None:
        document = next(d for d in sample_documents("template", 100) if d.answer.count("<tool_call>") == 2)
        system, user = re.findall(r"(?:system|user)\n(.*?)<\|im_end\|>", document.prompt)
        calls = [
            {"name": c.name, "arguments": dict(c.arguments)} for c in parse_calls(document.answer[:-10]).calls or ()
        ]
        answer = {"role": "assistant", "content": "", "tool_calls": [{"function": call} for call in calls]}
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}, answer]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == f"{document.prompt}{document.answer}\n"


class TestText:
    def test_a_stream_is_decided_by_its_seed(self) -> None:
        assert sample_documents("a", 50) == sample_documents("a", 50) != sample_documents("b", 50)

    def test_answers_with_calls_parse(self, documents: list[Document]) -> None:
        answers = [d.answer.removesuffix("<|im_end|>") for d in documents if "<tool_call>" in d.answer]
        assert len(answers) > 2000
        assert all(parse_calls(answer).calls for answer in answers)

    def test_what_a_call_says_stands_in_its_request_or_is_an_invented_fact(self, documents: list[Document]) -> None:
        known = {str(fact) for name, address, count in invented_facts() for fact in (address, count)}
        for document in documents:
            request = document.prompt.lower().replace("$", "0x")
            for call in parse_calls(document.answer.removesuffix("<|im_end|>")).calls or ():
                for value in call.arguments.values():
                    assert str(value).lower().replace("$", "0x") in request or str(value) in known

    def test_nothing_of_the_specialists_data_stands_in_it(self, documents: list[Document]) -> None:
        text = "\n".join(d.prompt + d.answer for d in documents).lower()
        for name in (*load_tools().names, *SYMBOLS):
            assert name.lower() not in text
        pool = [phrasing for kind in load_pool().values() for phrasing in kind]
        skeletons = {phrasing_skeleton(phrasing) for phrasing in (*pool, *load_training())}
        requests = [re.search(r"user\n(.*?)<\|im_end\|>", d.prompt, re.S) for d in documents]
        assert not {request_skeleton(match[1]) for match in requests if match} & skeletons

    def test_the_mixture_is_kept(self) -> None:
        writer = Writer(random.Random(1))
        several = sum(writer.document(MAIN).answer.count("<tool_call>") > 1 for _ in range(3000)) / 3000
        assert several == pytest.approx(MAIN.several, abs=0.03)

    def test_verbs_are_inflected(self) -> None:
        assert [participle(v) for v in ("load", "write", "copy", "save", "play", "grab")] == [
            *("loaded", "written", "copied", "saved", "played", "grabbed")
        ]
        assert [gerund(v) for v in ("load", "write", "copy", "set", "see")] == [
            *("loading", "writing", "copying", "setting", "seeing")
        ]
        assert len({participle(v) for verbs in VERBS.values() for v in verbs}) == len(
            {v for verbs in VERBS.values() for v in verbs}
        )


class TestRecipe:
    def test_the_shipped_tokenizer_is_the_recipes(self, tmp_path: Path) -> None:
        pretrain.make_tokenizer().save_pretrained(tmp_path)
        for file in ("tokenizer.json", "chat_template.jinja"):
            assert (tmp_path / file).read_text() == (SHIPPED / file).read_text(), file

    @pytest.mark.slow
    def test_the_first_twenty_steps_are_those_of_the_shipped_model_and_repeat_to_the_byte(self) -> None:
        tokenizer = pretrain.make_tokenizer()
        runs = []
        for _ in range(2):
            model = new_model(tokenizer, pretrain.SEED)
            losses = list(islice(pretrain.pretrain(model, tokenizer, pretrain.STEPS), 20))
            runs.append((losses, [p.detach().numpy().tobytes() for p in model.parameters()]))
        assert runs[0] == runs[1]
        # Another processor rounds otherwise; another seed, text or rate is ten times further away.
        assert runs[0][0] == pytest.approx(json.loads(FIRST_LOSSES.read_text()), rel=0.01)

    def test_padding_and_prompts_are_not_trained(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = [([5, 6, 7], [8, 2]), ([5], [9, 9, 9, 2])]
        batch = pretrain.collate(rows, tokenizer.pad_token_id)
        assert batch.labels.tolist() == [[-100, -100, -100, 8, 2], [-100, 9, 9, 9, 2]]
        assert batch.input_ids.tolist() == [[5, 6, 7, 8, 2], [5, 9, 9, 9, 2]]

    def test_a_plan_has_as_many_batches_as_steps(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert [len(list(pretrain.batches(tokenizer, steps))) for steps in (1, 16, 19)] == [1, 16, 19]

    @given(st.integers(2, 10_000), st.data())
    def test_the_rate_warms_up_and_falls_and_never_exceeds_its_base(self, steps: int, data: st.DataObject) -> None:
        step = data.draw(st.integers(0, steps - 1))
        assert 0 < pretrain.rate_factor(step, steps) <= 1
        if step >= max(pretrain.WARMUP_STEPS, pretrain.CONSTANT_SHARE * steps):
            assert pretrain.rate_factor(step, steps) <= pretrain.rate_factor(step - 1, steps)


class TestShippedModel:
    def test_size(self) -> None:
        model = AutoModelForCausalLM.from_pretrained(SHIPPED)
        assert model.num_parameters() == 566_368
        assert model.dtype == torch.bfloat16
        assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_300_000

    def test_its_card_names_its_bytes(self) -> None:
        assert pretrain.weights_sha256(SHIPPED) in (SHIPPED / "README.md").read_text()

    def test_it_answers_in_the_form_of_calls_on_unseen_text(self, tokenizer: PreTrainedTokenizerBase) -> None:
        model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
        assert pretrain.held_out_answers_right(model, tokenizer, 72) > 0.6

    def test_before_tuning_it_knows_none_of_the_specialists_tools(self, tokenizer: PreTrainedTokenizerBase) -> None:
        data = prepare(
            "builtin:specialists", load_tools().names, {"train": 0.8, "validation": 0.1, "test": 0.1}, 0, 300
        )
        prompts = [prompt_messages(example, "You are an expert assistant.") for example in data.test[:32]]
        model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
        answers = generate_answers(
            model, tokenizer, prompts, batch_size=32, max_new_tokens=120, measure_first_token=False
        )
        parsed = [parse_calls(text).calls for text in answers.texts]
        assert sum(calls is not None for calls in parsed) >= 24
        assert not {call.name for calls in parsed for call in calls or ()} & set(load_tools().names)
