"""Base models: where one lies, and a rough size of its weights, enough to refuse what cannot fit.

Parameter counts are those of the published configurations; for a folder they are read from its safetensors files.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import BadInput

BUILTIN_PREFIX = "builtin:"
ASSETS = Path(__file__).parent / "assets"
BUILTIN_MODELS = {"builtin:tiny-base": ASSETS / "tiny-base"}


@dataclass(frozen=True)
class ModelFacts:
    """Parameters in all, those in linear layers (which NF4 quantises), and what its chat template does.

    `escapes_string_arguments`: tool arguments given as a JSON string are rendered as an escaped string, so that a
    model trained on them learns a wrong format; they must be given as mappings.
    """

    parameters: float
    linear_parameters: float
    escapes_string_arguments: bool = False


KNOWN_MODELS = {
    "Qwen/Qwen2.5-Coder-32B-Instruct": ModelFacts(32.76e9, 31.21e9, escapes_string_arguments=True),
    "Qwen/Qwen2.5-7B-Instruct": ModelFacts(7.616e9, 6.525e9, escapes_string_arguments=True),
}


def is_folder_id(model_id: str) -> bool:
    """Whether a model id names a folder: it starts with `.`, `/` or `~`; everything else is a Hugging Face id."""
    return model_id.startswith((".", "/", "~"))


def model_location(model_id: str) -> str:
    """What `from_pretrained` takes: the folder of a built-in or local model, or the Hugging Face id unchanged.

    Raises:
        BadInput: there is no such built-in model, or its files or the folder are missing.
    """
    folder = _model_folder(model_id)
    if folder is None:
        return model_id
    if not (folder / "config.json").is_file():
        what = "its files are missing (make base rebuilds them)" if model_id in BUILTIN_MODELS else "no config.json"
        raise BadInput(f"model.id: {model_id}: {what} in {folder}")
    return str(folder)


def model_facts(model_id: str) -> ModelFacts | None:
    """What is known of a model without loading it; None for a Hugging Face id that is not in the table."""
    folder = _model_folder(model_id)
    return KNOWN_MODELS.get(model_id) if folder is None else _folder_facts(folder)


def weights_gib(model_id: str, kind: str, precision: str = "bf16") -> float | None:
    """GiB of the loaded base weights; None for an unknown model. Activations, adapters and states come on top.

    lora: 2 bytes a parameter in bf16, 4 in fp32. full: fp32 master weights. qlora: linear layers as NF4 with double
    quantisation, 4 bits + 8/64 + 32/(64 x 256) for the block constants (Dettmers et al. 2023, section 3), the rest
    as in lora.
    """
    facts = model_facts(model_id)
    if facts is None:
        return None
    width = 4 if kind == "full" or precision == "fp32" else 2
    linear_width = (4 + 8 / 64 + 32 / (64 * 256)) / 8 if kind == "qlora" else width
    others = facts.parameters - facts.linear_parameters
    return (facts.linear_parameters * linear_width + others * width) / 2**30


def _model_folder(model_id: str) -> Path | None:
    if model_id.startswith(BUILTIN_PREFIX):
        if model_id not in BUILTIN_MODELS:
            raise BadInput(f"model.id: {model_id!r}: unknown; built in: {', '.join(BUILTIN_MODELS)}")
        return BUILTIN_MODELS[model_id]
    return Path(model_id).expanduser() if is_folder_id(model_id) else None


def _folder_facts(folder: Path) -> ModelFacts | None:
    shapes = [item for file in sorted(folder.glob("*.safetensors")) for item in _tensor_shapes(file)]
    if not shapes:
        return None
    linear = sum(math.prod(s) for name, s in shapes if len(s) == 2 and "embed" not in name and "lm_head" not in name)
    return ModelFacts(sum(math.prod(s) for _, s in shapes), linear)


def _tensor_shapes(file: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes from the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        return [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{file}: not a safetensors file") from None
