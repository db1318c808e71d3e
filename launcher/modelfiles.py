"""A model's shape from its `config.json`.

Field names and defaults are those of the configuration classes of transformers 5.17, and of the models' own code for
Qwen1 and DeepSeek-MoE. A vision tower is left out: fine-tuning on text loads the text model alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from launcher.architecture import Architecture
from launcher.errors import BadInput

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """How one `model_type` is read.

    names: its own names for common fields, `theirs: ours`. defaults: values its class has where the file is silent.
    rest: parameters that `Architecture.small_parameters` does not cover (its `other_parameters`). experts: its layers
    hold experts; fused_experts: as parameters of three dimensions, as transformers keeps them.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rest: Callable[[Architecture, Config], int] = lambda shape, config: 0
    gated_mlp: bool = True
    experts: bool = False
    fused_experts: bool = True


def _output_bias(shape: Architecture, config: Config) -> int:
    """Biases outside q, k and v: of the attention's output, and of the MLP's three layers."""
    attention = shape.hidden_size if config.get("attention_out_bias", config.get("attention_bias")) else 0
    mlp = 2 * shape.intermediate_size + shape.hidden_size if config.get("mlp_bias") else 0
    return shape.num_hidden_layers * (attention + mlp)


def _head_norms(shape: Architecture, config: Config) -> int:
    """Norms over each head's queries and keys (Qwen3)."""
    return _output_bias(shape, config) + shape.num_hidden_layers * 2 * shape.head_dim


def _four_norms(shape: Architecture, config: Config) -> int:
    """Norms before and after each half of a layer (Gemma 2)."""
    return _output_bias(shape, config) + shape.num_hidden_layers * 2 * shape.hidden_size


def _four_norms_and_head_norms(shape: Architecture, config: Config) -> int:
    """Gemma 3."""
    return _four_norms(shape, config) + shape.num_hidden_layers * 2 * shape.head_dim


def _wide_norms(shape: Architecture, config: Config) -> int:
    """Norms over all queries and all keys of a layer (OLMo 2 and 3)."""
    widths = shape.attention_width + shape.key_value_width
    return _output_bias(shape, config) + shape.num_hidden_layers * widths


def _no_norm_weights(shape: Architecture, config: Config) -> int:
    """OLMo 1 norms have no weights: the usual ones are taken off again."""
    return _output_bias(shape, config) - (2 * shape.num_hidden_layers + 1) * shape.hidden_size


def _gpt_oss(shape: Architecture, config: Config) -> int:
    """Attention sinks, biases of the router and of every expert."""
    sinks = shape.num_attention_heads
    experts = shape.num_experts * (1 + 2 * shape.intermediate_size + shape.hidden_size)
    return _output_bias(shape, config) + shape.num_hidden_layers * (sinks + experts)


def _glm4_moe(shape: Architecture, config: Config) -> int:
    """The attention's output has no bias; norms over each head where asked for."""
    return shape.num_hidden_layers * 2 * shape.head_dim if config.get("use_qk_norm") else 0


def _falcon(shape: Architecture, config: Config) -> int:
    """Norms with a bias, one or two a layer and a last one, in place of the usual; biases of all linear layers."""
    hidden, layers = shape.hidden_size, shape.num_hidden_layers
    norms = config.get("num_ln_in_parallel_attn") or (2 if config.get("new_decoder_architecture") else 1)
    if not config.get("parallel_attn", True):
        norms = 2
    biases = layers * (2 * hidden + shape.intermediate_size) if config.get("bias") else 0
    return hidden * (2 * norms * layers + 2 - (2 * layers + 1)) + biases


_LLAMA = Family(rest=_output_bias)
_GEMMA = {"head_dim": 256, "tie_word_embeddings": True}
_QWEN2 = Family(defaults={"qkv_bias": True})
_LOCAL_EXPERTS = {"num_local_experts": "num_experts"}
_ROUTED_EXPERTS = {"n_routed_experts": "num_experts", "n_shared_experts": "shared_experts"}

FAMILIES = {
    "llama": _LLAMA,
    "mistral": Family(),
    "ministral": Family(),
    "qwen2": _QWEN2,
    "qwen3": Family(rest=_head_norms),
    "qwen3_moe": Family(names=_LOCAL_EXPERTS, rest=_head_norms, experts=True),
    "qwen": Family(
        names={"kv_channels": "head_dim", "seq_length": "max_position_embeddings"}, defaults={"qkv_bias": True}
    ),
    "mixtral": Family(names=_LOCAL_EXPERTS, experts=True),
    "gemma": Family(defaults=_GEMMA, rest=_output_bias),
    "gemma2": Family(defaults=_GEMMA, rest=_four_norms),
    "gemma3_text": Family(
        defaults=_GEMMA | {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4},
        rest=_four_norms_and_head_norms,
    ),
    "gpt_oss": Family(
        names=_LOCAL_EXPERTS,
        defaults={"head_dim": 64, "attention_bias": True},
        rest=_gpt_oss,
        experts=True,
    ),
    "phi3": Family(),
    "olmo": Family(rest=_no_norm_weights),
    "olmo2": Family(rest=_wide_norms),
    "olmo3": Family(rest=_wide_norms),
    "seed_oss": Family(defaults={"attention_bias": True, "attention_out_bias": False}, rest=_output_bias),
    "smollm3": Family(defaults={"tie_word_embeddings": True}, rest=_output_bias),
    "granite": _LLAMA,
    "glm4_moe": Family(names=_ROUTED_EXPERTS, rest=_glm4_moe, experts=True),
    "deepseek": Family(names=_ROUTED_EXPERTS, rest=_output_bias, experts=True, fused_experts=False),
    "mpt": Family(
        names={
            "d_model": "hidden_size",
            "n_heads": "num_attention_heads",
            "n_layers": "num_hidden_layers",
            "max_seq_len": "max_position_embeddings",
        },
        defaults={"tie_word_embeddings": True},
        gated_mlp=False,
    ),
    "falcon": Family(
        names={
            "n_embed": "hidden_size",
            "n_head": "num_attention_heads",
            "n_layer": "num_hidden_layers",
            "n_head_kv": "num_kv_heads",
            "ffn_hidden_size": "intermediate_size",
        },
        defaults={"tie_word_embeddings": True, "max_position_embeddings": 2048},
        rest=_falcon,
        gated_mlp=False,
    ),
}


NEEDED = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "head_dim"),
)
EXPERTS_NEEDED = ("num_experts", "num_experts_per_tok")
OPTIONAL = (
    *("max_position_embeddings", "moe_intermediate_size", "shared_experts", "decoder_sparse_step"),
    *("first_k_dense_replace", "num_ln_in_parallel_attn"),
)


def architecture_from_config(config: Config, where: str) -> Architecture:
    """The shape a Hugging Face `config.json` describes; `where` names it in faults.

    Raises:
        BadInput: the family is not known, or a field is missing or no count.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return architecture_from_config({"tie_word_embeddings": config.get("tie_word_embeddings")} | dict(text), where)
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None or not isinstance(model_type, str):
        raise BadInput(_unknown_family(model_type, where))
    fields = _common_fields(config, model_type, family)
    _refuse_bad_counts(fields, family, where)
    counts = {name: fields[name] for name in NEEDED}
    shape = Architecture(
        tie_word_embeddings=bool(fields.get("tie_word_embeddings")),
        qkv_bias=bool(fields.get("qkv_bias") or fields.get("attention_bias") or fields.get("bias")),
        gated_mlp=family.gated_mlp,
        max_context=fields.get("max_position_embeddings") or None,
        family=model_type,
        **(counts | (_experts(fields, family, where) if family.experts else {})),
    )
    return dataclasses.replace(shape, other_parameters=family.rest(shape, fields))


def read_architecture(file: Path) -> Architecture:
    """The shape in a `config.json`.

    Raises:
        BadInput: there is no such file, it is not a JSON object, or what it describes cannot be read.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"{file}: no such file; a model's config.json is needed") from None
    except ValueError as error:
        raise BadInput(f"{file}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{file}: {type(config).__name__}: a JSON object is needed")
    return architecture_from_config(config, str(file))


def _common_fields(config: Config, model_type: str, family: Family) -> dict[str, Any]:
    """The configuration in the names of Llama's, with the family's defaults where it is silent."""
    fields: dict[str, Any] = dict(family.defaults) | {
        family.names.get(name, name): value for name, value in config.items() if value is not None
    }
    hidden, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    if model_type == "mpt":
        fields["intermediate_size"] = _product(hidden, 4)
    elif model_type == "falcon":
        fields.setdefault("intermediate_size", _product(hidden, 4))
        if not fields.get("new_decoder_architecture") and fields.get("multi_query", True):
            fields["num_kv_heads"] = 1
    elif model_type == "qwen" and _is_count(fields.get("intermediate_size")):
        # Qwen1 states the width of gate and up together.
        fields["intermediate_size"] //= 2
    if fields.get("num_kv_heads") is not None:
        fields["num_key_value_heads"] = fields["num_kv_heads"]
    if heads is not None:
        fields.setdefault("num_key_value_heads", heads)
    if _is_count(hidden) and _is_count(heads):
        fields.setdefault("head_dim", hidden // heads)
    return fields


def _experts(fields: Config, family: Family, where: str) -> dict[str, Any]:
    """The fields of `Architecture` on experts; layers without them are counted as if they came first."""
    layers, step = fields["num_hidden_layers"], fields.get("decoder_sparse_step") or 1
    without = {layer for layer in fields.get("mlp_only_layers", ()) if 0 <= layer < layers and (layer + 1) % step == 0}
    dense = layers - layers // step + len(without) + (fields.get("first_k_dense_replace") or 0)
    if dense > layers:
        raise BadInput(f"{where}: {dense} of {layers} layers without experts: more than there are")
    return {
        "intermediate_size": fields.get("moe_intermediate_size") or fields["intermediate_size"],
        "num_experts": fields["num_experts"],
        "experts_per_token": fields["num_experts_per_tok"],
        "shared_experts": fields.get("shared_experts") or 0,
        "dense_layers": dense,
        "dense_intermediate_size": fields["intermediate_size"],
        "fused_experts": family.fused_experts,
    }


def _refuse_bad_counts(fields: Config, family: Family, where: str) -> None:
    needed = [*NEEDED, *(EXPERTS_NEEDED if family.experts else ())]
    present = [name for name in OPTIONAL if fields.get(name)]
    missing = [name for name in needed if name not in fields]
    faults = [f"{where}: {', '.join(missing)}: missing"] if missing else []
    faults += [
        f"{where}: {name}: {fields[name]!r}: a whole number above 0 is needed"
        for name in [*needed, *present]
        if name in fields and not _is_count(fields[name])
    ]
    only = fields.get("mlp_only_layers", [])
    if not (isinstance(only, list) and all(isinstance(layer, int) for layer in only)):
        faults.append(f"{where}: mlp_only_layers: {only!r}: a list of layer numbers is needed")
    if faults:
        raise BadInput(*faults)


def _unknown_family(model_type: Any, where: str) -> str:
    if model_type is None:
        return f"{where}: model_type: missing; it names the family whose fields these are"
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=3)
    known = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(FAMILIES)}"
    return f"{where}: model_type: {model_type!r}: the layers of this family are not known here; {known}"


def _product(left: Any, right: Any) -> Any:
    return left * right if _is_count(left) and _is_count(right) else None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
