"""Job files: what a user writes is understood as meant, and every fault is one line that says what would be right."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.errors import BadInput
from launcher.job import JobSpec, load_job
from launcher.models import model_location, weights_gib
from launcher.presets import load_preset

SMALLEST: dict[str, Any] = {
    "name": "a-job",
    "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
    "data": {"source": "builtin:specialists"},
    "budget": {"max_usd": "15 usd"},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a job file: the smallest job with sections added, or raw text."""

    def write(changes: dict[str, Any] | str | bytes, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        if isinstance(changes, dict):
            merged = {k: {**SMALLEST.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()}
            changes = yaml.safe_dump({**SMALLEST, **merged})
        path.write_bytes(changes if isinstance(changes, bytes) else changes.encode())
        return path

    return write


def faults_of(path: Path, preset: str | None = None) -> list[str]:
    with pytest.raises(BadInput) as caught:
        load_job(path, preset)
    assert caught.value.exit_code == 2
    return [fault.replace(str(path.parent) + os.sep, "") for fault in caught.value.faults]


def test_the_smallest_job_has_the_plans_defaults(write: Callable[..., Path]) -> None:
    spec = load_job(write({}))
    assert (spec.method.kind, spec.method.r, spec.method.alpha, spec.method.dropout) == ("lora", 16, 32, 0.05)
    assert len(spec.method.target_modules) == 7
    assert (spec.train.batch, spec.train.eval_batch, spec.train.effective_batch) == (4, 8, 16)
    assert (spec.train.learning_rate, spec.train.weight_decay, spec.train.epochs) == (2e-5, 0.01, 3)
    assert (spec.early_stopping.patience, spec.early_stopping.threshold) == (3, 0.001)
    assert spec.budget.deadline is None and spec.resources.usd_per_hour is None
    assert spec.system_prompt_text() is None


def test_units_become_seconds_dollars_and_gib(write: Callable[..., Path]) -> None:
    spec = load_job(
        write(
            {
                "budget": {"max_usd": "$15", "max_usd_per_hour": 4, "deadline": "1h30m"},
                "resources": {"gpu_memory": "24GB", "usd_per_hour": "0.05 usd"},
            }
        )
    )
    assert (spec.budget.max_usd, spec.budget.max_usd_per_hour, spec.budget.deadline) == (15, 4, 5400)
    assert spec.resources.gpu_memory == pytest.approx(22.35, abs=0.01)
    assert spec.resources.usd_per_hour == 0.05


def test_numbers_and_words_are_those_of_yaml_1_2(write: Callable[..., Path]) -> None:
    text = """
name: a-job
model: {id: org/model, revision: main}
data: {source: builtin:specialists, tools: [no, off, 2026-01-08]}
train: {learning_rate: 2e-5, weight_decay: 1.E-2, epochs: +2}
budget: {max_usd: 15}
"""
    spec = load_job(write(text))
    assert (spec.train.learning_rate, spec.train.weight_decay, spec.train.epochs) == (2e-5, 0.01, 2)
    assert spec.data.tools == ("no", "off", "2026-01-08")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"learning_rte": 1}}, "train.learning_rte: unknown key; did you mean learning_rate?"),
        ({"learning_rate": 1}, "learning_rate: unknown key; did you mean train.learning_rate?"),
        ({"data": {"system_prompt": {"lenght": 1}}}, "data.system_prompt.lenght: unknown key; did you mean length"),
        ({"tracking": {"zzz": 1}}, "tracking.zzz: unknown key; known here: wandb, project, tags"),
        ({"targets": {"exact_match": {"prod": 1}}}, "targets.exact_match.prod: unknown key; did you mean production?"),
        ({"data": {1: 2}}, "data.1: 1: a key must be a plain word"),
        ({"budget": {"max_usd": -3}}, "budget.max_usd: -3: an amount in US dollars above 0 and finite is needed"),
        ({"budget": {"max_usd": "0 usd"}}, "budget.max_usd: '0 usd': an amount in US dollars above 0"),
        ({"budget": {"max_usd": "15 eur"}}, "budget.max_usd: '15 eur': an amount above 0 in US dollars is needed"),
        ({"budget": {"max_usd": math.nan}}, "budget.max_usd: nan: an amount in US dollars above 0 and finite"),
        ({"budget": {"deadline": 6}}, "budget.deadline: 6: a duration such as 6h, 90m or 1h30m is needed"),
        ({"budget": {"max_usd": None}}, "budget.max_usd: null: an amount above 0 in US dollars is needed"),
        ({"resources": {"gpu_memory": "80"}}, "resources.gpu_memory: '80': an amount of memory such as 80GiB"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: 0: should be greater than 0"),
        ({"train": {"learning_rate": math.inf}}, "train.learning_rate: inf: a finite number is needed"),
        ({"train": {"weight_decay": -0.1}}, "train.weight_decay: -0.1: should be greater than or equal to 0"),
        ({"train": {"batch": 2.5}}, "train.batch: 2.5: a whole number from 1, or max, is needed"),
        ({"train": {"batch": True}}, "train.batch: true: a whole number from 1, or max, is needed"),
        ({"train": {"batch": 0}}, "train.batch: 0: a whole number from 1, or max, is needed"),
        ({"train": {"eval_steps": "often"}}, "train.eval_steps: 'often': a whole number from 1, or auto, is needed"),
        ({"train": {"seed": "1"}}, "train.seed: '1': a whole number is needed"),
        ({"train": {"packing": "yes"}}, "train.packing: 'yes': true or false is needed"),
        ({"train": {"schedule": "cosin"}}, "train.schedule: 'cosin': one of cosine, linear, constant is needed"),
        ({"train": [1]}, "train: a list: a mapping of fields (key: value) is needed"),
        ({"train": None}, "train: null: a mapping of fields (key: value) is needed"),
        ({"data": {"tools": []}}, "data.tools: a list: at least one entry is needed"),
        ({"data": {"tools": ["a.b", "c", "a.b"]}}, "data.tools: a list: a.b stands there twice"),
        ({"data": {"tools": "a.b"}}, "data.tools: 'a.b': a list is needed"),
        ({"data": {"source": "builtin:unicorns"}}, "data.source: 'builtin:unicorns': builtin:specialists, or a path"),
        ({"data": {"splits": {"train": 0.9}}}, "data.splits.train + validation + test: 1.1; they must sum to 1"),
        ({"data": {"splits": {"validation": 0}}}, "data.splits.validation: 0: should be greater than 0"),
        ({"data": {"system_prompt": {"file": "nowhere.txt"}}}, "data.system_prompt.file: cannot be read (No such file"),
        ({"method": {"target_modules": []}}, "method.target_modules: a list: a list of module names, or all-linear"),
        ({"method": {"kind": "dora"}}, "method.kind: 'dora': one of lora, qlora, full is needed"),
        ({"name": "My Job"}, "name: 'My Job': a name of lower-case letters, digits and '-' is needed"),
        ({"targets": {"exactness": {"mvp": 1}}}, "targets.exactness: unknown metric; one of exact_match, "),
        ({"targets": {"exact_match": {"mvp": 85}}}, "targets.exact_match.mvp: 85; a share from 0 to 1 is needed"),
        ({"targets": {"validity": {"mvp": 0.9, "stretch": 0.8}}}, "targets.validity: mvp 0.9, stretch 0.8; must not"),
        ({"targets": {"latency_ms": {"mvp": 2, "stretch": 3}}}, "targets.latency_ms: mvp 2, stretch 3; must not rise"),
        ({"targets": {"exact_match": {}}}, "targets.exact_match: no tier"),
        ({"train": {"batch": "max"}}, "train.global_batch: missing; batch: max needs it"),
        ({"train": {"global_batch": 17}}, "train.global_batch: 17; batch 4 x accumulation 4 is 16"),
        ({"resources": {"spot": True, "providers": ["lambda"]}}, "resources.spot: true; lambda has no spot instances"),
        ({"resources": {"providers": ["aws"]}}, "resources.providers.0: 'aws': one of vast, lambda, runpod is needed"),
        ({"resources": {"trust": "friends"}}, "resources.trust: 'friends': one of any, verified, datacenter is needed"),
        ({"resources": {"regions": []}}, "resources.regions: a list: at least one entry is needed"),
        ({"resources": {"min_reliability": 99}}, "resources.min_reliability: 99: should be less than or equal to 1"),
        ({"resources": {"min_reliability": math.nan}}, "resources.min_reliability: nan: a finite number is needed"),
    ],
)  # fmt: skip
def test_a_fault_names_file_field_value_and_remedy(write: Callable[..., Path], changes: dict, expected: str) -> None:
    [fault] = faults_of(write(changes))
    where = fault.split(": ", 1)[0]
    assert where in ("job.yaml", "nowhere.txt")
    assert fault.removeprefix(f"{where}: ").startswith(expected)


@pytest.mark.parametrize(
    ("source", "written", "trust"),
    [
        ("builtin:specialists", None, "verified"),
        ("mine.jsonl", None, "datacenter"),
        ("mine.jsonl", "any", "any"),
        ("builtin:specialists", "datacenter", "datacenter"),
    ],
)
def test_own_data_goes_to_datacenters_unless_the_job_says_otherwise(
    write: Callable[..., Path], source: str, written: str | None, trust: str
) -> None:
    spec = load_job(write({"data": {"source": source}, "resources": {"trust": written}}))
    assert spec.trust == trust
    assert JobSpec.from_resolved(json.loads(json.dumps(spec.resolved()))).trust == trust


def test_a_job_narrows_its_hosts(write: Callable[..., Path]) -> None:
    resources = load_job(write({"resources": {"regions": ["EU", "US"], "min_reliability": 0.98}})).resources
    assert (resources.regions, resources.min_reliability) == (("EU", "US"), 0.98)


def test_all_faults_come_at_once(write: Callable[..., Path]) -> None:
    path = write(
        "model: {id: 3}\ntrain: {batch: max, learning_rte: 1, warmup_ratio: 1.5}\n"
        "data: {source: builtin:specialists, splits: {train: 0.5}, system_prompt: {file: gone.txt}}\n"
        "budget: {deadline: soon}\n"
    )
    starts = [line.split(": ")[1] for line in faults_of(path)]
    assert starts == [
        "name",
        "model.id",
        "data.splits.train + validation + test",
        "train.warmup_ratio",
        "train.learning_rte",
        "budget.max_usd",
        "budget.deadline",
        "data.system_prompt.file",
    ]


def test_rules_across_sections(write: Callable[..., Path]) -> None:
    path = write(
        {
            "model": {"attention": "flash_attention_2"},
            "train": {"precision": "fp32"},
            "resources": {"usd_per_hour": 5},
            "budget": {"max_usd_per_hour": 4},
        }
    )
    assert [fault.split("; ")[0] for fault in faults_of(path)] == [
        "job.yaml: model.attention: flash_attention_2 works in bf16 only",
        "job.yaml: resources.usd_per_hour: 5 is above budget.max_usd_per_hour 4",
    ]


BOMB = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "job.yaml: empty"),
        ("# nothing but a comment\n", "job.yaml: empty"),
        ("- a\n- b\n", "job.yaml: a list; a mapping of fields (key: value) is needed"),
        ("just words", "job.yaml: a str; a mapping"),
        ("name: a\n---\nname: b\n", "job.yaml: more than one YAML document"),
        ("name: [a\n", "job.yaml:2: "),
        ("name: a\n\tmodel: b\n", "job.yaml:2: "),
        ("name: a\nname: b\n", "job.yaml:2: 'name' stands here twice"),
        ("train:\n  seed: 1\n  seed: 1\n", "job.yaml:3: 'seed' stands here twice"),
        ("? [a]\n: b\n", "job.yaml:1: a key must be a plain word"),
        ("name: &x a\n", "job.yaml:1: anchors and aliases are not supported"),
        (BOMB, "job.yaml:1: anchors and aliases are not supported"),
        ("name: !!python/object/apply:os.getcwd []\n", "job.yaml:1: tags"),
        ("name: !!timestamp soon\n", "job.yaml:1: tags"),
        ("train: {seed: " + "9" * 5000 + "}", "job.yaml:1: a number of 5000 digits"),
        ("[" * 5000, "job.yaml: nested too deeply"),
        (b"\x80\x81\xfe\x00", "job.yaml: not a text file in UTF-8"),
        (b"name: \x00\x01", "job.yaml: not YAML"),
        (b"# " + b"x" * 1_100_000, "job.yaml: 1,100,002 bytes"),
    ],
)
def test_a_file_that_is_no_job_is_one_line(write: Callable[..., Path], content: str | bytes, expected: str) -> None:
    [fault] = faults_of(write(content))
    assert fault.startswith(expected)
    assert "\n" not in fault


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "gone.yaml") == ["gone.yaml: no such file"]
    (tmp_path / "folder.yaml").mkdir()
    assert faults_of(tmp_path / "folder.yaml") == ["folder.yaml: not a file"]


@given(st.text(max_size=60) | st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_content_at_all_ends_in_a_traceback(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    assert all(fault and "\n" not in fault for fault in faults_of(path))


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from([*JobSpec.model_fields, "extends"]), value=JSONISH)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_value_in_any_section_ends_in_a_traceback(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, field: value}))
    try:
        load_job(path)
    except BadInput as fault:
        assert all(line and "\n" not in line for line in fault.faults)


def test_extends_merges_mappings_and_replaces_lists(write: Callable[..., Path]) -> None:
    write("train: {batch: 2, epochs: 5}\ndata: {tools: [a, b]}\nmodel: {id: org/model}\n", "shared.yaml")
    child = write(
        "name: child\nextends: shared.yaml\ntrain: {epochs: 1}\n"
        "data: {source: builtin:specialists, tools: [c]}\nbudget: {max_usd: 1}\n"
    )
    spec = load_job(child)
    assert (spec.train.batch, spec.train.epochs, spec.data.tools) == (2, 1, ("c",))


def test_a_fault_names_the_file_it_stands_in(write: Callable[..., Path]) -> None:
    write("train: {batch: -1, epochs: -1}\n", "shared.yaml")
    child = write("name: child\nextends: shared.yaml\ntrain: {epochs: -2}\ndata: {source: builtin:specialists}\n")
    assert [fault.split(": ")[:2] for fault in faults_of(child)] == [
        ["job.yaml", "model"],
        ["shared.yaml", "train.batch"],
        ["job.yaml", "train.epochs"],
        ["job.yaml", "budget"],
    ]


def test_extends_is_one_level_of_an_existing_file(write: Callable[..., Path]) -> None:
    write("extends: other.yaml\n", "shared.yaml")
    assert "may not extend another" in faults_of(write("extends: shared.yaml\n"))[0]
    assert faults_of(write("extends: gone.yaml\n"))[0].startswith("job.yaml: extends: 'gone.yaml': no such file")
    assert faults_of(write("extends: [a]\n"))[0].startswith("job.yaml: extends: a list: the path of one job file")
    assert "may not extend another" in faults_of(write("extends: job.yaml\n"))[0]


def test_paths_count_from_the_file_they_stand_in(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/prompt.txt").write_text("You are a tester. You test.\n")
    write("data: {source: data.jsonl, system_prompt: {file: prompt.txt}}\n", "sub/shared.yaml")
    spec = load_job(write("name: child\nextends: sub/shared.yaml\nmodel: {id: ./weights}\nbudget: {max_usd: 1}\n"))
    assert spec.data.source == str(tmp_path / "sub/data.jsonl")
    assert spec.model.id == str(tmp_path / "weights")
    assert spec.system_prompt_text() == "You are a tester. You test."


def test_a_resolved_spec_needs_neither_the_prompt_file_nor_the_directory(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("You are X.\n", "prompt.txt")
    write({"data": {"source": "data.jsonl", "system_prompt": {"file": "prompt.txt"}}})
    monkeypatch.chdir(tmp_path)
    spec = load_job(Path("job.yaml"))
    resolved = json.loads(json.dumps(spec.resolved()))
    (tmp_path / "prompt.txt").unlink()
    monkeypatch.chdir("/")
    again = JobSpec.from_resolved(resolved)
    assert again == spec
    assert again.system_prompt_text() == "You are X."
    assert again.data.source == str(tmp_path / "data.jsonl")


AMOUNT = st.floats(min_value=1e-6, max_value=1e9)


@given(
    usd=AMOUNT, deadline=AMOUNT, memory=AMOUNT, rate=st.floats(min_value=1e-12, max_value=1), batch=st.integers(1, 99)
)
def test_a_spec_survives_the_run_folder_exactly(
    usd: float, deadline: float, memory: float, rate: float, batch: int
) -> None:
    spec = JobSpec.model_validate(
        {
            **SMALLEST,
            "budget": {"max_usd": usd, "deadline": f"{deadline:.20f}s"},
            "resources": {"gpu_memory": f"{memory:.20f}GiB"},
            "train": {"learning_rate": rate, "batch": batch},
            "method": {"target_modules": "all-linear"},
        }
    )
    assert JobSpec.from_resolved(json.loads(json.dumps(spec.resolved()))) == spec


def test_a_damaged_resolved_spec_is_refused(write: Callable[..., Path]) -> None:
    resolved = load_job(write({})).resolved()
    with pytest.raises(BadInput, match=r"^spec.json: train.batch: 'x': a whole number from 1, or max"):
        JobSpec.from_resolved({**resolved, "train": {**resolved["train"], "batch": "x"}})
    with pytest.raises(BadInput, match=r"^spec.json: name: missing"):
        JobSpec.from_resolved({key: value for key, value in resolved.items() if key != "name"})


def test_seeds_can_be_changed_and_are_checked(write: Callable[..., Path]) -> None:
    spec = load_job(write({}))
    changed = spec.with_seeds(train=3, data=5)
    assert (changed.train.seed, changed.data.seed, spec.with_seeds().train.seed) == (3, 5, 0)
    with pytest.raises(BadInput, match=r"^a-job: train.seed: 4294967296: should be less than 4294967296"):
        spec.with_seeds(train=2**32)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("You are X. You do Y.", "You are X."),
        ("You are X, an expert specializing in:\n- this\n- that\n\nUse tools.", "You are X, an expert."),
        ("Is it v1.3? Yes.", "Is it v1.3?"),
        ("No full stop here\nSecond line.", "No full stop here"),
    ],
)
def test_first_sentence_of_a_system_prompt(write: Callable[..., Path], text: str, first: str) -> None:
    spec = load_job(write({"data": {"system_prompt": {"text": text, "length": "first_sentence"}}}))
    assert spec.system_prompt_text() == first
    assert load_job(write({"data": {"system_prompt": {"text": text}}})).system_prompt_text() == text


@pytest.mark.parametrize(("content", "expected"), [("  \n", "empty"), (b"\xff\xfe", "not a text file in UTF-8")])
def test_a_system_prompt_file_must_have_text(write: Callable[..., Path], content: str | bytes, expected: str) -> None:
    write(content, "prompt.txt")
    [fault] = faults_of(write({"data": {"system_prompt": {"file": "prompt.txt"}}}))
    assert fault == f"prompt.txt: data.system_prompt.file: {expected}"
    write("You.", "prompt.txt")
    [fault] = faults_of(write({"data": {"system_prompt": {"file": "prompt.txt", "text": "You."}}}))
    assert "give one of them" in fault


@pytest.mark.parametrize(
    "section",
    [
        "data: {source: other.jsonl}",
        "data: {system_prompt: {text: hello}}",
        "data: {seed: 1}",
        "data: other.jsonl",
        "method: {r: 4}",
        "early_stopping: {patience: 9}",
        "evaluate: {extra_test_examples: 10}",
        "train: {metric: loss}",
        "train: {load_best: false}",
        "targets: {exact_match: {mvp: 0.1}}",
        "budget: {max_usd: 100}",
        "resources: {gpus: 8}",
        "name: other",
        "extends: job.yaml",
    ],
)
def test_a_preset_touches_nothing_but_the_ground(write: Callable[..., Path], section: str) -> None:
    preset = write(f"train: {{batch: 1}}\n{section}\n" if not section.startswith("train") else section, "mine.yaml")
    [fault] = faults_of(write({}), str(preset))
    assert fault.startswith(f"mine.yaml: {section.split(':')[0]}") and "not for a preset" in fault


def test_a_preset_overrides_and_its_faults_are_its_own(write: Callable[..., Path]) -> None:
    preset = write("train: {batch: 2, accumulation: 1}\n", "mine.yaml")
    assert load_job(write({"train": {"batch": 8, "epochs": 2}}), str(preset)).train.effective_batch == 2
    broken = write("train: {batch: many}\n", "broken.yaml")
    assert faults_of(write({}), str(broken))[0].startswith("broken.yaml: train.batch: 'many'")


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(BadInput, match="preset 'tinny': unknown; shipped: tiny"):
        load_preset("tinny")


def test_weights_of_the_jobs_models() -> None:
    coder = "Qwen/Qwen2.5-Coder-32B-Instruct"
    assert weights_gib(coder, "lora") == pytest.approx(61.0, abs=0.1)
    assert weights_gib(coder, "qlora") == pytest.approx(17.9, abs=0.1)
    assert weights_gib("org/never-heard-of", "lora") is None


def test_weights_of_a_folder_are_read_from_its_files(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [1024, 512], "data_offsets": [0, 0]},
        "model.layers.0.q_proj.weight": {"dtype": "BF16", "shape": [512, 512], "data_offsets": [0, 0]},
        "model.norm.weight": {"dtype": "BF16", "shape": [512], "data_offsets": [0, 0]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert weights_gib(str(tmp_path), "lora") == (1024 * 512 + 512 * 512 + 512) * 2 / 2**30
    assert weights_gib(str(tmp_path), "full") == (1024 * 512 + 512 * 512 + 512) * 4 / 2**30
    with pytest.raises(BadInput, match=r"no config\.json"):
        model_location(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BadInput, match="not a safetensors file"):
        weights_gib(str(tmp_path), "lora")


def test_an_unknown_built_in_model_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model\.id: 'builtin:huge': unknown; built in: builtin:tiny-base"):
        model_location("builtin:huge")
