"""The job: one YAML file says everything about one fine-tune. Read it with `load_job`; all its faults come at once.

`JobSpec.resolved()` is the same job as plain JSON: units written out (`6h`, `80GiB`), paths absolute, the system
prompt's text filled in. It works from any directory, and `JobSpec.from_resolved` gives back the equal spec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from launcher.errors import BadInput
from launcher.faults import fault_lines, show_value
from launcher.jobparts import (
    TARGET_METRICS,
    BudgetSpec,
    DataSpec,
    EarlyStoppingSpec,
    EvaluateSpec,
    MethodSpec,
    ModelSpec,
    ResourcesSpec,
    Section,
    Splits,
    SystemPromptSpec,
    Tiers,
    TrackingSpec,
    TrainSpec,
    Trust,
    consistent_targets,
    refuse,
)
from launcher.models import is_folder_id
from launcher.presets import load_preset
from launcher.yamlfile import read_mapping

__all__ = [
    "TARGET_METRICS",
    "BudgetSpec",
    "DataSpec",
    "EarlyStoppingSpec",
    "EvaluateSpec",
    "JobSpec",
    "MethodSpec",
    "ModelSpec",
    "ResourcesSpec",
    "Splits",
    "SystemPromptSpec",
    "Tiers",
    "TrackingSpec",
    "TrainSpec",
    "load_job",
]

# "... assistant specializing in:" opens a list; its first sentence ends before the participle.
_LIST_OPENING = re.compile(r"\s+\w+ing(\s+\w+)?:$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise ValueError("a name of lower-case letters, digits and '-' is needed, a letter first, 40 at most")
    return name


class JobSpec(Section):
    """One fine-tune, complete and consistent."""

    name: Annotated[str, AfterValidator(_plain_name)]
    model: ModelSpec
    method: MethodSpec = MethodSpec()
    data: DataSpec
    train: TrainSpec = TrainSpec()
    early_stopping: EarlyStoppingSpec = EarlyStoppingSpec()
    targets: Annotated[dict[str, Tiers], AfterValidator(consistent_targets)] = Field(default_factory=dict)
    evaluate: EvaluateSpec = EvaluateSpec()
    resources: ResourcesSpec = ResourcesSpec()
    budget: BudgetSpec
    tracking: TrackingSpec = TrackingSpec()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        conflicts = []
        if self.model.attention == "flash_attention_2" and self.train.precision == "fp32":
            conflicts.append("model.attention: flash_attention_2 works in bf16 only; write sdpa, or precision: bf16")
        price, ceiling = self.resources.usd_per_hour, self.budget.max_usd_per_hour
        if price is not None and ceiling is not None and price > ceiling:
            conflicts.append(f"resources.usd_per_hour: {price:g} is above budget.max_usd_per_hour {ceiling:g}")
        refuse(conflicts)
        return self

    @property
    def trust(self) -> Trust:
        """Which hosts may see this job's data: as written; by default `datacenter` for data of one's own.

        Own data is every `data.source` that is not `builtin:`. What is built in is public, so `verified` does there:
        the keys that a run carries still have to be kept from a host nobody knows.
        """
        if self.resources.trust is not None:
            return self.resources.trust
        return "verified" if self.data.source.startswith("builtin:") else "datacenter"

    def system_prompt_text(self) -> str | None:
        """The system prompt as trained on, whole or its first sentence; None: the job has none of its own."""
        prompt = self.data.system_prompt
        if prompt.text is None or prompt.length == "full":
            return prompt.text
        first_line = prompt.text.strip().splitlines()[0]
        return _LIST_OPENING.sub(".", _SENTENCE_END.split(first_line)[0])

    def with_seeds(self, train: int | None = None, data: int | None = None) -> JobSpec:
        """The same job with another training or data seed.

        Raises:
            BadInput: a seed is negative or too large.
        """
        changed = self.resolved()
        if train is not None:
            changed["train"]["seed"] = train
        if data is not None:
            changed["data"]["seed"] = data
        return JobSpec.from_resolved(changed, self.name)

    def resolved(self) -> dict[str, Any]:
        """The whole spec as plain JSON values; `from_resolved` gives back an equal spec."""
        return self.model_dump(mode="json")

    @classmethod
    def from_resolved(cls, resolved: Mapping[str, Any], file: str = "spec.json") -> JobSpec:
        """Read back what `resolved` made; reads no other file.

        Raises:
            BadInput: it is not a resolved spec; `file` is the name the message gives.
        """
        try:
            return cls.model_validate(resolved)
        except ValidationError as error:
            raise BadInput(*fault_lines(error, cls, lambda loc: file)) from None


@dataclass(frozen=True)
class _Layer:
    """One file's share of a job; later layers override earlier ones."""

    file: str
    content: dict[str, Any]


def load_job(path: Path, preset: str | None = None) -> JobSpec:
    """Read a job file, the file it extends, and a preset, as one spec.

    Relative paths (data, system prompt, model folder) count from the file they stand in. Data files need not exist.

    Raises:
        BadInput: every fault of the job at once, one line each: file, field, value, what would be right.
    """
    layers = _job_layers(path)
    if preset is not None:
        overrides = load_preset(preset)
        layers.append(_Layer(str(overrides.file), _anchored(dict(overrides.overrides), overrides.file.parent)))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.content)
    faults = _read_system_prompt(merged)
    try:
        spec = JobSpec.model_validate(merged)
    except ValidationError as error:
        faults = [*fault_lines(error, JobSpec, lambda loc: _file_of(loc, layers, str(path))), *faults]
    if faults:
        raise BadInput(*faults)
    return spec


def _job_layers(path: Path) -> list[_Layer]:
    content = read_mapping(path)
    own = _Layer(str(path), _anchored({k: v for k, v in content.items() if k != "extends"}, path.parent))
    if "extends" not in content:
        return [own]
    extends = content["extends"]
    if not isinstance(extends, str) or not extends:
        raise BadInput(f"{path}: extends: {show_value(extends)}: the path of one job file is needed")
    parent_path = path.parent / extends
    if not parent_path.is_file():
        raise BadInput(f"{path}: extends: {extends!r}: no such file ({parent_path})")
    parent = read_mapping(parent_path)
    if "extends" in parent:
        raise BadInput(f"{parent_path}: extends: {path.name} extends this file, so it may not extend another itself")
    return [_Layer(str(parent_path), _anchored(parent, parent_path.parent)), own]


def _anchored(content: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same content with the paths it names made absolute; values of a wrong kind are left for validation."""

    def absolute(value: str) -> str:
        return str((base.absolute() / Path(value).expanduser()).resolve())

    def change(section: Any, key: str, is_path: Any) -> Any:
        value = section.get(key) if isinstance(section, dict) else None
        return {**section, key: absolute(value)} if isinstance(value, str) and value and is_path(value) else section

    content = dict(content)
    if "model" in content:
        content["model"] = change(content["model"], "id", is_folder_id)
    if isinstance(content.get("data"), dict):
        data = change(content["data"], "source", lambda value: not value.startswith("builtin:"))
        prompt = change(data.get("system_prompt"), "file", lambda value: True)
        content["data"] = {**data, "system_prompt": prompt} if "system_prompt" in data else data
    return content


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; everything else of `above` (lists too) replaces what stands below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read_system_prompt(merged: dict[str, Any]) -> list[str]:
    """Put the text of `data.system_prompt.file` into `merged`; the faults met."""
    data = merged.get("data")
    prompt = data.get("system_prompt") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(prompt, dict):
        return []
    file = prompt.get("file")
    if not isinstance(file, str) or not file:
        return []
    where = f"{file}: data.system_prompt.file"
    if prompt.get("text") is not None:
        return [f"{where}: the job also gives data.system_prompt.text; give one of them"]
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        return [f"{where}: not a text file in UTF-8"]
    except OSError as fault:
        return [f"{where}: cannot be read ({fault.strerror})"]
    if not text:
        return [f"{where}: empty"]
    merged["data"] = {**data, "system_prompt": {**prompt, "text": text}}
    return []


def _file_of(loc: tuple[Any, ...], layers: list[_Layer], default: str) -> str:
    """The file that had the last word on a field; `default` for one that stands nowhere."""
    for layer in reversed(layers):
        content: Any = layer.content
        for part in loc:
            if not isinstance(content, dict) or part not in content:
                break
            content = content[part]
        else:
            return layer.file
    return default
