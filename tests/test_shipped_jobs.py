"""Every job file we ship is loaded, shown and scheduled, with the values its plan gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli.show import describe_job, render_job
from launcher.errors import BadInput
from launcher.job import load_job
from launcher.presets import load_preset
from launcher.schedule import plan_schedule

JOBS = Path(__file__).parent.parent / "jobs"
SPECIALISTS = {"veran-tools": (264, 51), "farore-debug": (251, 48), "nayru-editor": (217, 42)}
# Training examples: the specialists' are counted, the others' data is the user's own, so what their plans expect.
TRAIN_EXAMPLES = {
    **{name: n for name, (n, _) in SPECIALISTS.items()},
    "osrs-controller": 1530,
    "schema-compliance-7b": 600,
}
SHARED = {"specialists"}

every_job = pytest.mark.parametrize("name", sorted(TRAIN_EXAMPLES))
with_and_without_preset = pytest.mark.parametrize("preset", [None, "tiny"])


def job(name: str) -> Path:
    return JOBS / f"{name}.yaml"


def test_no_shipped_file_is_left_out() -> None:
    assert {file.stem for file in JOBS.glob("*.yaml")} == TRAIN_EXAMPLES.keys() | SHARED
    assert {file.stem for file in (JOBS / "presets").glob("*.yaml")} == {"tiny"}


@every_job
def test_a_job_is_named_like_its_file_and_opens_with_its_command(name: str) -> None:
    assert load_job(job(name)).name == name
    opening = job(name).read_text().split("\n\n")[0]
    assert f"launcher show jobs/{name}.yaml" in opening
    assert "usd" in opening and "not measured" in opening


@every_job
@with_and_without_preset
def test_a_job_has_a_schedule_that_works(name: str, preset: str | None) -> None:
    spec = load_job(job(name), preset)
    schedule = plan_schedule(TRAIN_EXAMPLES[name], spec.train, spec.early_stopping)
    assert 7 <= schedule.evaluations <= 10
    assert schedule.save_points == schedule.evaluation_points


@every_job
@with_and_without_preset
def test_what_is_shown_is_the_job_itself(name: str, preset: str | None, tmp_path: Path) -> None:
    """The shown text is a job file: loaded from elsewhere, it gives the same spec."""
    shown = tmp_path / "shown.yaml"
    shown.write_text(render_job(job(name), preset, TRAIN_EXAMPLES[name]))
    assert load_job(shown) == load_job(job(name), preset)


@every_job
def test_tiny_marks_every_field_it_overrides_and_no_other(name: str) -> None:
    before = load_job(job(name))
    lines = render_job(job(name), "tiny", TRAIN_EXAMPLES[name]).splitlines()
    marked = {line.split(":")[0].strip(): line for line in lines if "# preset tiny: " in line}
    tiny = load_preset("tiny").overrides
    assert set(marked) == {"id", "revision", "attention", "length", "tools", "usd_per_hour", *tiny["train"]}
    assert marked["learning_rate"].endswith(f"# preset tiny: was {before.train.learning_rate!r}")
    assert marked["id"].endswith(f"# preset tiny: was {before.model.id}")
    assert "# preset" not in render_job(job(name), None, TRAIN_EXAMPLES[name])


def test_tiny_leaves_data_method_stop_rules_and_evaluation_alone() -> None:
    for name in TRAIN_EXAMPLES:
        plain, tiny = load_job(job(name)), load_job(job(name), "tiny")
        for section in ("method", "early_stopping", "targets", "evaluate", "budget", "tracking"):
            assert getattr(plain, section) == getattr(tiny, section)
        assert plain.data.model_copy(update={"system_prompt": tiny.data.system_prompt}) == tiny.data
        assert plain.data.system_prompt.text == tiny.data.system_prompt.text


@pytest.mark.parametrize(("name", "steps"), [(name, steps) for name, (_, steps) in SPECIALISTS.items()])
def test_show_counts_the_specialists_examples_itself(name: str, steps: int) -> None:
    described = describe_job(job(name))
    assert described["train_examples"] == SPECIALISTS[name][0]
    assert described["schedule"]["optimizer_steps"] == steps
    assert f"# schedule: {steps} optimizer steps" in render_job(job(name))
    json.dumps(described, allow_nan=False)


@pytest.mark.parametrize("name", ["osrs-controller", "schema-compliance-7b"])
def test_a_job_is_shown_before_its_data_is_there(name: str) -> None:
    described = describe_job(job(name))
    assert described["schedule"] is None
    assert "does not exist" in described["schedule_note"]
    assert "# schedule: not known before the data is there" in render_job(job(name))


def test_show_refuses_the_plans_own_intervals(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"name: plan\nextends: {job('specialists')}\ntrain: {{eval_steps: 50, save_steps: 100}}\n")
    with pytest.raises(BadInput) as caught:
        render_job(path, None, 264)
    assert [fault.split(": ")[1] for fault in caught.value.faults] == [
        "train.eval_steps",
        "train.save_steps",
        "early_stopping.patience",
    ]


def test_the_specialists_have_the_plans_values() -> None:
    for name in SPECIALISTS:
        spec = load_job(job(name))
        assert (spec.model.id, spec.method.kind) == ("Qwen/Qwen2.5-Coder-32B-Instruct", "lora")
        assert (spec.method.r, spec.method.alpha, spec.method.dropout) == (16, 32, 0.05)
        assert spec.method.target_modules == (
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        )
        train = spec.train
        assert (train.batch, train.eval_batch, train.accumulation, train.epochs) == (4, 8, 4, 3)
        assert (train.learning_rate, train.weight_decay, train.warmup_ratio) == (2e-5, 0.01, 0.1)
        assert (train.schedule, train.precision, train.optimizer) == ("cosine", "bf16", "adamw_torch_fused")
        assert (train.gradient_checkpointing, train.logging_steps, train.keep_checkpoints) == (True, 10, 3)
        assert (train.load_best, train.metric) == (True, "exact_match")
        assert (spec.early_stopping.patience, spec.early_stopping.threshold) == (3, 0.001)
        assert (spec.data.splits.train, spec.data.splits.validation, spec.data.splits.test) == (0.8, 0.1, 0.1)
        text = spec.system_prompt_text()
        assert text is not None and text.startswith(f"You are {name.split('-')[0].upper()}-") and "MCP tools" in text
        first_sentence = load_job(job(name), "tiny").system_prompt_text()
        assert first_sentence is not None and first_sentence.endswith("assistant.") and "\n" not in first_sentence


@pytest.mark.parametrize(
    ("name", "production"), [("veran-tools", 0.95), ("farore-debug", 0.90), ("nayru-editor", 0.95)]
)
def test_targets_are_the_stricter_of_what_the_plan_says(name: str, production: float) -> None:
    targets = load_job(job(name)).targets
    assert (targets["exact_match"].mvp, targets["exact_match"].production) == (0.85, production)
    assert targets["exact_match"].stretch == 0.95
    assert (targets["latency_ms"].mvp, targets["latency_ms"].production) == (500, 300)


def test_the_other_jobs_have_their_plans_values() -> None:
    osrs = load_job(job("osrs-controller"))
    assert (osrs.model.id, osrs.method.kind) == ("Qwen/Qwen2.5-7B-Instruct", "qlora")
    assert (osrs.method.r, osrs.method.alpha, osrs.train.learning_rate) == (16, 32, 1e-4)
    assert (osrs.data.splits.train, osrs.data.splits.validation) == (0.9, 0.1)
    assert (osrs.targets["execution_rate"].production, osrs.targets["tool_accuracy"].production) == (0.95, 0.90)
    schema = load_job(job("schema-compliance-7b"))
    assert (schema.model.id, schema.method.kind) == ("Qwen/Qwen2.5-7B-Instruct", "lora")
    assert (schema.method.r, schema.method.alpha, schema.method.target_modules) == (16, 32, "all-linear")
    assert (schema.train.batch, schema.train.learning_rate) == ("max", 1e-5)
    assert 1 <= schema.train.epochs <= 3


def test_the_shared_part_is_no_job_by_itself() -> None:
    with pytest.raises(BadInput, match=r"specialists\.yaml: name: missing"):
        load_job(job("specialists"))
