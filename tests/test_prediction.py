"""The record of what a plan said a run would take: of its own machine, or of the one it shares."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cost.offer import Offer
from launcher.job import JobSpec, load_job
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import Limits, Plan
from launcher.planning.planner import Planner
from launcher.prediction import predict_here, predictions_of, write_predictions
from launcher.report.estimates import estimate_table
from launcher.report.view import read_run
from launcher.run import create_runs, plan_run
from launcher.rundir import RunFolder, RunRecord, RunState
from launcher.tokens import TokenCount, stated_tokens
from tests.conftest import ROOT

PLANNED_AT = 1_795_000_000.0


def count(spec: JobSpec, micro_batch: int) -> TokenCount:
    rows = 850 if spec.name == "veran-tools" else 300
    return stated_tokens(spec, micro_batch, rows, 320.0)


def jobs() -> list[JobNeeds]:
    return [JobNeeds.of(load_job(ROOT / f"jobs/{name}.yaml"), count) for name in ("veran-tools", "farore-debug")]


def offer(gpus: int) -> Offer:
    return Offer(
        provider="lambda", instance_type=f"gpu_{gpus}x", gpu="H100-SXM", gpus=gpus, gpu_memory_gib=80.0, vcpus=26.0,
        host_memory_gib=400.0 * gpus, region="us-east-1", spot=False, usd_per_hour=3.0 * gpus, source="live",
        priced_at="2026-11-21",
    )  # fmt: skip


def best(gpus: int, machines: int) -> Plan:
    plans = Planner(jobs(), kinds_of([offer(gpus)]), Limits()).plan().plans
    return next(plan for plan in plans if plan.shape.machines == machines)


def test_jobs_with_a_machine_each_have_a_prediction_each() -> None:
    plan = best(gpus=1, machines=2)
    found = predictions_of(plan, jobs(), Limits(), PLANNED_AT)
    long, short = found["veran-tools"], found["farore-debug"]
    assert short["usd"]["p50"] < long["usd"]["p50"]
    assert short["usd"]["p50"] + long["usd"]["p50"] == pytest.approx(plan.usd.p50, rel=0.01)
    assert long["hours"]["p90"] == pytest.approx(plan.hours.p90, rel=0.01)
    assert (long["shared_by"], short["shared_by"]) == (["veran-tools"], ["farore-debug"])
    assert long["worst_case_usd"] + short["worst_case_usd"] == pytest.approx(plan.worst_case_usd, abs=0.02)


def test_jobs_on_one_machine_have_that_machines_prediction() -> None:
    plan = best(gpus=2, machines=1)
    found = predictions_of(plan, jobs(), Limits(), PLANNED_AT)
    assert found["veran-tools"]["usd"] == found["farore-debug"]["usd"]
    assert found["farore-debug"]["shared_by"] == ["veran-tools", "farore-debug"]
    assert found["farore-debug"]["worst_case_usd"] == pytest.approx(plan.worst_case_usd, abs=0.01)


def test_what_is_written_says_offer_memory_and_when() -> None:
    found = predictions_of(best(gpus=1, machines=2), jobs(), Limits(), PLANNED_AT)["veran-tools"]
    assert found["offer"] == {
        "provider": "lambda", "instance_type": "gpu_1x", "gpu": "H100-SXM", "gpus": 1, "region": "us-east-1",
        "spot": False, "usd_per_hour": 3.0, "price_source": "live", "priced_at": "2026-11-21",
    }  # fmt: skip
    assert 0 < found["peak_gib"] <= found["peak_high_gib"] < 80
    assert found["hours"]["p10"] <= found["hours"]["p50"] <= found["hours"]["p90"]
    assert found["planned_at"] == "2026-11-18T11:06:40+00:00"


def own_machine(home: Path, name: str) -> None:
    home.mkdir(exist_ok=True)
    machine = {"name": name, "gpu": "H100-SXM", "gpus": 2, "memory": "80GiB", "watts": 1400, "usd_per_kwh": 0.3}
    (home / "own.yaml").write_text(yaml.safe_dump({"machines": [machine]}), encoding="utf-8")


def test_a_local_run_is_predicted_where_this_machine_is_known(own_home: Path) -> None:
    specs = [job.spec for job in jobs()]
    assert predict_here(specs, count) == {}
    own_machine(own_home, "another-machine")
    assert predict_here(specs, count) == {}
    own_machine(own_home, platform.node())
    found = predict_here(specs, count)
    assert set(found) == {"veran-tools", "farore-debug"}
    assert found["veran-tools"]["offer"]["provider"] == "own"


def test_a_wrong_file_of_machines_does_not_stop_a_local_run(own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "own.yaml").write_text("machines: 3\n")
    assert predict_here([job.spec for job in jobs()], count) == {}


def test_the_report_shows_it(tmp_path: Path) -> None:
    folders = []
    for job in ("veran-tools", "no-plan"):
        record = RunRecord(f"{job}-1", job, "1", RunState.PLANNED, "2026-11-21T12:00:00+00:00")
        folders.append(RunFolder.create(tmp_path, record.id, record))
    write_predictions(folders, predictions_of(best(gpus=1, machines=2), jobs(), Limits(), PLANNED_AT))
    assert "predicted by the plan" in str(estimate_table(read_run(folders[0])))
    assert not folders[1].prediction_file.exists()


def test_a_local_run_keeps_its_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = predictions_of(best(gpus=1, machines=2), jobs(), Limits(), PLANNED_AT)
    asked: list[str] = []

    def predict(specs: Sequence[JobSpec]) -> dict[str, Any]:
        asked.extend(spec.name for spec in specs)
        return told

    monkeypatch.setattr("launcher.run.predict_here", predict)
    planned = plan_run(load_job(ROOT / "jobs/veran-tools.yaml", "tiny"), "tiny")
    [folder] = create_runs([planned], tmp_path, "g")
    assert asked == ["veran-tools"]
    assert folder.read_json(folder.prediction_file) == told["veran-tools"]
