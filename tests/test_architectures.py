"""Model shapes: the shipped table against published totals, and the reader of config.json against the real classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.architecture import Architecture
from launcher.errors import BadInput
from launcher.modelfiles import FAMILIES, NEEDED, OPTIONAL, architecture_from_config
from launcher.models import ASSETS, KnownModel, all_architectures, find_architecture, weights_gib

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "head_dim": 48,
    "pad_token_id": None,
}
BIASES = {"attention_bias": True, "mlp_bias": True}
# Family (and what is special) -> the fields given to the configuration class of transformers.
REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama, tied and biased": ("llama", SMALL | BIASES | {"tie_word_embeddings": True}),
    "mistral": ("mistral", SMALL),
    "mistral without head_dim": ("mistral", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "ministral": ("ministral", SMALL),
    "qwen2": ("qwen2", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "qwen3": ("qwen3", SMALL | {"attention_bias": True}),
    "qwen3_moe": ("qwen3_moe", SMALL | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 96}),
    "qwen3_moe, half dense": (
        "qwen3_moe",
        SMALL | {"num_hidden_layers": 4, "num_experts": 6, "decoder_sparse_step": 2, "mlp_only_layers": [0, 1]},
    ),
    "mixtral": ("mixtral", SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma": ("gemma", SMALL),
    "gemma2": ("gemma2", SMALL),
    "gemma3_text": ("gemma3_text", SMALL),
    "gemma3_text, defaults left out": (
        "gemma3_text",
        {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2, "pad_token_id": None},
    ),
    "gpt_oss": ("gpt_oss", SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": ("phi3", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "olmo": ("olmo", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "olmo2": ("olmo2", {k: v for k, v in SMALL.items() if k != "head_dim"} | {"attention_bias": True}),
    "olmo3": ("olmo3", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "seed_oss": ("seed_oss", SMALL),
    "seed_oss, biased": ("seed_oss", SMALL | BIASES | {"attention_out_bias": True}),
    "smollm3": ("smollm3", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "granite": ("granite", {k: v for k, v in SMALL.items() if k != "head_dim"} | BIASES),
    "glm4_moe": (
        "glm4_moe",
        SMALL
        | {"num_hidden_layers": 3, "n_routed_experts": 6, "moe_intermediate_size": 96, "first_k_dense_replace": 1}
        | {"attention_bias": True, "use_qk_norm": True, "n_shared_experts": 2},
    ),
    "mpt": ("mpt", {"d_model": 256, "n_heads": 8, "n_layers": 2, "vocab_size": 1000}),
    "falcon": ("falcon", {"hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 2, "vocab_size": 1000}),
    "falcon, newer decoder": (
        "falcon",
        {"hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 2, "vocab_size": 1000}
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    ),
    "falcon, older": (
        "falcon",
        {"hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 2, "vocab_size": 1000}
        | {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
    ),
}
# Their classes are not part of transformers, or have another name there.
WITHOUT_CLASS = {"qwen", "deepseek"}
COUNT = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
answers = {}
for name, (model_type, fields) in json.load(sys.stdin).items():
    config = AutoConfig.for_model(model_type, **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    answers[name] = [json.loads(config.to_json_string(use_diff=True)), sum(p.numel() for p in model.parameters())]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[dict[str, Any], int]]:
    """Of every small model: its config.json as transformers would save it, and its parameters on the meta device."""
    ran = subprocess.run(
        [sys.executable, "-c", COUNT], input=json.dumps(REAL), capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_reader_counts_the_parameters_of_the_real_class(name: str, real: dict[str, tuple[dict[str, Any], int]]) -> None:
    config, parameters = real[name]
    assert architecture_from_config(config, name).parameters == parameters, name


def test_every_family_is_held_against_its_class() -> None:
    assert {model_type for model_type, _ in REAL.values()} == set(FAMILIES) - WITHOUT_CLASS


@pytest.mark.parametrize("model", all_architectures(), ids=lambda model: model.name)
def test_shape_gives_the_published_parameter_count(model: KnownModel) -> None:
    published = model.parameters - model.not_counted
    assert model.architecture.parameters == pytest.approx(published, rel=0.005), model.name


@pytest.mark.parametrize("model", all_architectures(), ids=lambda model: model.name)
def test_every_row_says_where_its_total_is_from(model: KnownModel) -> None:
    assert model.source, model.name
    assert model.architecture.max_context and model.architecture.max_context >= 2048, model.name
    # A part that is left out is small and named.
    assert 0 <= model.not_counted < 0.1 * model.parameters, model.name
    assert ("not counted: the" in model.source) == bool(model.not_counted), model.name


def test_every_name_of_a_row_finds_it() -> None:
    for model in all_architectures():
        for name in (model.name, *model.ids):
            assert find_architecture(name) == model.architecture, name
            assert find_architecture(name.upper()) == model.architecture, name


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-Coder-32B-Instruct", 32.76),
        ("qwen2.5-coder-32b", 32.76),
        ("QWEN2.5-0.5B", 0.494),
        ("llama-2-7b", 6.74),
        ("Llama2-7b-chat-hf", 6.74),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", 8.03),
        ("meta-llama/Llama-3.1-405B", 405.9),
        ("mistral-7b", 7.24),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.25),
        ("google/gemma-3-27b-it", 27.0),
        ("openai/gpt-oss-120b", 116.8),
        ("qwen3-30b-a3b", 30.5),
        ("mpt-13b", 12.85),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 140.63),
        ("mistralai/Mixtral-8x22B-v0.1", 140.62),
        ("NousResearch/Nous-Hermes-2-Yi-34B", 34.39),
    ],
)
def test_short_names_and_ids_find_their_model(name: str, billions: float) -> None:
    assert find_architecture(name).parameters / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2.5-coder-33b", "model: 'qwen2.5-coder-33b': unknown; nearest: qwen2.5-coder-3"),
        ("org/never-heard-of", "model: 'org/never-heard-of': unknown; give a folder with its config.json"),
        ("builtin:huge", "unknown; built in: builtin:tiny-base"),
        ("./nowhere", "no such file; a model's config.json is needed"),
    ],
)
def test_an_unknown_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        find_architecture(name)
    assert message in str(caught.value)


def test_local_models_are_read_from_their_files(tmp_path: Path) -> None:
    built_in = find_architecture("builtin:tiny-base")
    assert (built_in.family, built_in.max_context) == ("qwen3", 512)
    assert built_in == find_architecture(str(ASSETS / "tiny-base"))
    assert built_in == find_architecture(str(ASSETS / "tiny-base" / "config.json"))
    # Its weights are in fp32 in their file; counting them there and counting its shape come to the same.
    assert weights_gib("builtin:tiny-base", "full") == built_in.parameters * 4 / 2**30
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(BadInput, match=r"config\.json: list: a JSON object is needed"):
        find_architecture(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json: not JSON"):
        find_architecture(str(tmp_path))


def test_a_multimodal_config_is_read_for_its_text_model() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    assert architecture_from_config(config, "x").parameters == find_architecture("gemma-3-4b").parameters


def test_a_missing_field_and_an_unknown_family_are_named() -> None:
    with pytest.raises(BadInput, match=r"my/config\.json: num_attention_heads, .*, vocab_size, head_dim: missing"):
        architecture_from_config(
            {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}, "my/config.json"
        )
    with pytest.raises(BadInput, match="x: hidden_size: -8: a whole number above 0 is needed"):
        architecture_from_config({"model_type": "llama"} | SMALL | {"hidden_size": -8}, "x")
    with pytest.raises(BadInput, match=r"model_type: 'qwen3_next': .* not known here; nearest: qwen3"):
        architecture_from_config({"model_type": "qwen3_next"}, "x")
    with pytest.raises(BadInput, match="model_type: missing"):
        architecture_from_config({}, "x")
    with pytest.raises(BadInput, match="9 of 2 layers without experts"):
        moe = SMALL | {"num_experts": 4, "num_experts_per_tok": 1, "first_k_dense_replace": 9}
        architecture_from_config({"model_type": "qwen3_moe"} | moe, "x")


def test_experts_count_as_stored_and_as_used() -> None:
    shape = find_architecture("qwen3-30b-a3b")
    active = shape.active_linear_parameters + shape.embedding_parameters + shape.small_parameters
    assert active / 1e9 == pytest.approx(3.35, rel=0.01)
    gpt = find_architecture("gpt-oss-120b")
    # The model card counts 5.1 B active, without the input embedding.
    active = gpt.active_linear_parameters + gpt.vocab_size * gpt.hidden_size + gpt.small_parameters
    assert active / 1e9 == pytest.approx(5.7, rel=0.1)


def test_qlora_leaves_experts_in_16_bits() -> None:
    # bitsandbytes reaches linear layers only; the experts of these models are parameters of three dimensions.
    assert weights_gib("openai/gpt-oss-120b", "qlora") == pytest.approx(216, rel=0.01)
    assert weights_gib("qwen3-30b-a3b", "lora") == pytest.approx(30.53e9 * 2 / 2**30, rel=0.001)
    assert weights_gib("./nowhere", "lora") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.sampled_from([*FAMILIES, "unheard_of"]),
    st.dictionaries(st.sampled_from([*NEEDED, *OPTIONAL, "num_experts", "mlp_only_layers", "d_model"]), json_values),
)
def test_any_config_is_a_shape_or_bad_input(model_type: str, fields: dict[str, Any]) -> None:
    try:
        shape = architecture_from_config({"model_type": model_type} | SMALL | fields, "config.json")
    except BadInput as error:
        assert all(fault.startswith("config.json: ") for fault in error.faults)
    else:
        assert isinstance(shape, Architecture)
        assert shape.linear_parameters > 0 and shape.expert_parameters >= 0
        assert shape.max_context is None or shape.max_context > 0


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.experts])
def test_a_family_of_experts_needs_their_number(model_type: str) -> None:
    with pytest.raises(BadInput, match="x: num_experts, num_experts_per_tok: missing"):
        architecture_from_config({"model_type": model_type} | SMALL, "x")
    zeros = dict.fromkeys(OPTIONAL, 0) | {"num_experts": 4, "num_experts_per_tok": 2}
    assert architecture_from_config({"model_type": model_type} | SMALL | zeros, "x").num_experts == 4


def test_the_table_is_read_without_heavy_imports_and_only_when_asked() -> None:
    heavy = "{'torch', 'transformers', 'pydantic', 'yaml'}"
    code = f"import sys, launcher.models as m; print({heavy} & set(sys.modules), m.all_architectures.cache_info()[3])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set() 0"
