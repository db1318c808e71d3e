"""What tests share: a home of their own, and short runs of the real training program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
SHORT_PRESET = ROOT / "tests/data/presets/short.yaml"

# Before anything imports torch or tokenizers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


# A machine under load draws slowly and is late: that says nothing of the code, so no test fails for it.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a LAUNCHER_HOME of its own."""
    home = tmp_path / "launcher-home"
    monkeypatch.setenv("LAUNCHER_HOME", str(home))
    return home


@pytest.fixture
def short_job(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a job file: a shipped specialist with a small extra test set and given changes."""

    def write(specialist: str = "veran-tools", name: str | None = None, **changes: dict[str, Any]) -> Path:
        content: dict[str, Any] = {
            "extends": str(ROOT / "jobs" / f"{specialist}.yaml"),
            "evaluate": {"extra_test_examples": 24, "bootstrap_samples": 200},
            "early_stopping": {"patience": None},
        }
        shipped = yaml.safe_load((ROOT / "jobs" / f"{specialist}.yaml").read_text(encoding="utf-8"))
        # `extends` goes one level deep: take the shipped file's parent and its content.
        content["extends"] = str(ROOT / "jobs" / shipped.pop("extends"))
        prompt = shipped.get("data", {}).get("system_prompt", {})
        if "file" in prompt:
            prompt["file"] = str(ROOT / "jobs" / prompt["file"])
        merged = _merge(shipped, content)
        merged["name"] = name or specialist
        path = tmp_path / f"{merged['name']}.yaml"
        path.write_text(yaml.safe_dump(_merge(merged, changes)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def short_preset(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a preset of a few steps, with given changes to its training section (None: left out)."""

    def write(usd_per_hour: float | None = None, **train: Any) -> str:
        content = yaml.safe_load(SHORT_PRESET.read_text(encoding="utf-8"))
        content["train"] = {k: v for k, v in (content["train"] | train).items() if v is not None}
        if usd_per_hour is not None:
            content["resources"]["usd_per_hour"] = usd_per_hour
        path = tmp_path / "short.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
