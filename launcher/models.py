"""Base models: where one lies, its shape, and the size of its weights.

The shapes of well-known models are in `launcher/assets/architectures.json`, as the fields of their `config.json`, with
the parameter count that was published and where; any other model is read from its folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from launcher.architecture import Architecture
from launcher.errors import BadInput
from launcher.modelfiles import architecture_from_config, read_architecture

BUILTIN_PREFIX = "builtin:"
ASSETS = Path(__file__).parent / "assets"
BUILTIN_MODELS = {"builtin:tiny-base": ASSETS / "tiny-base"}
TABLE = ASSETS / "architectures.json"

# Parts of a model's name that say how it was tuned, stored or converted, not which shape it has.
_NOT_SHAPE = {"instruct", "chat", "it", "hf", "base", "pt", "meta", "bnb", "4bit"}


@dataclass(frozen=True)
class KnownModel:
    """A model of the table: its name, its Hugging Face ids, its shape, and what was published about its size.

    parameters: the published total; not_counted: what of it is no part of the shape (a vision tower, layers for
    predicting several tokens, which training on text leaves out); source: of the total.
    """

    name: str
    ids: tuple[str, ...]
    architecture: Architecture
    parameters: int
    not_counted: int
    source: str


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


def find_architecture(model_id: str) -> Architecture:
    """The shape of a model: a Hugging Face id or short name of the table, `builtin:...`, a folder or a `config.json`.

    Case, owner and how a model was tuned or stored do not matter: `unsloth/Llama-2-7b-chat-hf` is `llama-2-7b`.

    Raises:
        BadInput: the model is not known (the nearest names are given), or its `config.json` cannot be read.
    """
    folder = _model_folder(model_id)
    if folder is not None:
        return read_architecture(folder if folder.suffix == ".json" else folder / "config.json")
    known = _known(model_id)
    if known is None:
        raise BadInput(_unknown_model(model_id))
    return known.architecture


@lru_cache(maxsize=1)
def all_architectures() -> tuple[KnownModel, ...]:
    """Every model of the table."""
    return tuple(_known_model(row) for row in json.loads(TABLE.read_text(encoding="utf-8"))["models"])


def weights_gib(model_id: str, kind: str, precision: str = "bf16") -> float | None:
    """GiB of the loaded base weights; None for an unknown model. Activations, adapters and states come on top.

    lora: 2 bytes a parameter in bf16, 4 in fp32. full: fp32 master weights. qlora: linear layers as NF4 with double
    quantisation, 4 bits + 8/64 + 32/(64 x 256) for the block constants (Dettmers et al. 2023, section 3), the rest
    as in lora. Where a folder holds the weights, they are counted in their files.

    Raises:
        BadInput: there is no such built-in model, or a file of the folder cannot be read.
    """
    counts = _weight_counts(model_id)
    if counts is None:
        return None
    total, linear = counts
    width = 4 if kind == "full" or precision == "fp32" else 2
    linear_width = (4 + 8 / 64 + 32 / (64 * 256)) / 8 if kind == "qlora" else width
    return (linear * linear_width + (total - linear) * width) / 2**30


def _weight_counts(model_id: str) -> tuple[int, int] | None:
    """Parameters in all, and those in linear layers, which NF4 quantises."""
    folder = _model_folder(model_id)
    if folder is None:
        known = _known(model_id)
        return None if known is None else (known.architecture.parameters, known.architecture.linear_parameters)
    shapes = [item for file in sorted(folder.glob("*.safetensors")) for item in _tensor_shapes(file)]
    if not shapes:
        return None
    linear = sum(math.prod(s) for name, s in shapes if len(s) == 2 and "embed" not in name and "lm_head" not in name)
    return sum(math.prod(s) for _, s in shapes), linear


def _model_folder(model_id: str) -> Path | None:
    if model_id.startswith(BUILTIN_PREFIX):
        if model_id not in BUILTIN_MODELS:
            raise BadInput(f"model.id: {model_id!r}: unknown; built in: {', '.join(BUILTIN_MODELS)}")
        return BUILTIN_MODELS[model_id]
    return Path(model_id).expanduser() if is_folder_id(model_id) or model_id.endswith(".json") else None


def _tensor_shapes(file: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes from the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        return [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{file}: not a safetensors file") from None


def _known_model(row: dict) -> KnownModel:
    architecture = architecture_from_config(row["config"], f"{TABLE.name}: {row['name']}")
    return KnownModel(
        name=row["name"],
        ids=tuple(row["ids"]),
        architecture=dataclasses.replace(architecture, max_context=row["max_context"]),
        parameters=row["parameters"],
        not_counted=row.get("not_counted", 0),
        source=row["source"],
    )


def _known(model_id: str) -> KnownModel | None:
    """The model of exactly this name, else the one it is a variant of."""
    exact, variants = _indexes()
    return exact.get(_bare(model_id)) or variants.get(_key(model_id))


@lru_cache(maxsize=1)
def _indexes() -> tuple[dict[str, KnownModel], dict[str, KnownModel]]:
    """Models by their names, and by those names' keys, of which the first in the table counts."""
    names = [(name, model) for model in all_architectures() for name in (model.name, *model.ids)]
    return {_bare(name): model for name, model in names}, {_key(name): model for name, model in reversed(names)}


def _bare(model_id: str) -> str:
    """A model's name without its owner."""
    return model_id.rsplit("/", 1)[-1].lower()


def _key(model_id: str) -> str:
    """A model's name without what does not change its shape, and without separators."""
    return "".join(word for word in re.split(r"[-_ ]+", _bare(model_id)) if word not in _NOT_SHAPE)


def _unknown_model(model_id: str) -> str:
    _, variants = _indexes()
    near = difflib.get_close_matches(_key(model_id), variants, n=5, cutoff=0.6)
    names = ", ".join(dict.fromkeys(variants[key].name for key in near))
    hint = f"nearest: {names}; or " if names else ""
    return f"model: {model_id!r}: unknown; {hint}give a folder with its config.json"
