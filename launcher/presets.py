"""Presets: one shipped file of overrides that puts a job on another machine, such as `tiny` for a laptop's CPU.

A preset changes the model and how long and how fast it is trained. It never changes the data, the method, the stop
rules or the evaluation, so that what it exercises is the job itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import BadInput
from launcher.faults import printable
from launcher.yamlfile import read_mapping

JOBS_DIR = Path(__file__).parents[1] / "jobs"

OVERRIDABLE = frozenset(
    {
        "data.system_prompt.length",
        "data.system_prompt.tools",
        "resources.usd_per_hour",
        *(f"model.{field}" for field in ("id", "revision", "attention")),
        *(
            f"train.{field}"
            for field in (
                *("batch", "eval_batch", "accumulation", "global_batch", "max_steps", "epochs", "max_length"),
                *("learning_rate", "weight_decay", "schedule", "warmup_ratio", "optimizer", "adam_beta2"),
                *("precision", "gradient_checkpointing", "logging_steps", "eval_steps", "save_steps"),
            )
        ),
    }
)


@dataclass(frozen=True)
class Preset:
    """A named set of overrides and the file they stand in."""

    name: str
    file: Path
    overrides: Mapping[str, Any]


def load_preset(name: str) -> Preset:
    """The preset of that name in `jobs/presets/`, or in the file `name` where that ends in .yaml.

    Raises:
        BadInput: there is none of that name, or it touches what a preset may not.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else _shipped_file(name)
    overrides = read_mapping(file)
    forbidden = [path for path, _ in flatten(overrides) if path not in OVERRIDABLE]
    if forbidden:
        raise BadInput(*(printable(f"{file}: {path}: not for a preset; {_reason(path)}") for path in forbidden))
    return Preset(file.stem, file, overrides)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings as (`train.batch`, 16) pairs."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _reason(path: str) -> str:
    section = path.split(".", 1)[0]
    if section in ("train", "model"):
        allowed = sorted(allowed for allowed in OVERRIDABLE if allowed.startswith(f"{section}."))
        return f"it may override {', '.join(allowed)}"
    return "it may override model, lengths, steps, batch, optimizer values and precision; write the rest in the job"


def _shipped_file(name: str) -> Path:
    folder = JOBS_DIR / "presets"
    if not folder.is_dir():
        raise BadInput(f"preset {name!r}: {folder} is missing; run from a checkout, or give the preset's .yaml file")
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise BadInput(f"preset {name!r}: unknown; shipped: {', '.join(known)} (or give a .yaml file)")
    return folder / f"{name}.yaml"
