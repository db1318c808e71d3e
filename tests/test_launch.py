"""A launch: what is submitted, and on the sandbox's hosts the whole of it, from the intent to the empty list.

What is marked `sandbox` runs SkyPilot against the emulated providers, with training inside local hosts; root is needed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cost.ledger import launcher_home
from launcher.cost.offer import Offer
from launcher.errors import Refused
from launcher.job import JobSpec, load_job
from launcher.launching.clusters import SECRETS, Cluster, clusters_of
from launcher.planning.advice import as_method
from launcher.planning.kinds import kinds_of
from launcher.planning.needs import JobNeeds
from launcher.planning.plan import Limits, Plan
from launcher.planning.planner import Planner
from launcher.sandbox.sandbox import Sandbox
from launcher.tokens import count_tokens

ROOT = Path(__file__).parent.parent
NAMES = ("veran-tools", "farore-debug", "nayru-editor")
NETWORK = 80
IMAGES = launcher_home() / "sandbox" / "images"  # the user's cache, also where a test has a home of its own
SHORT = """
model: {id: "builtin:tiny-base"}
data: {system_prompt: {length: first_sentence, tools: false}}
train: {batch: 16, accumulation: 1, global_batch: null, max_steps: 30, learning_rate: 4e-3, precision: fp32,
  gradient_checkpointing: false, max_length: 384, eval_steps: auto, save_steps: auto, logging_steps: 5}
"""


def specs() -> list[JobSpec]:
    return as_method([load_job(ROOT / "jobs" / f"{name}.yaml") for name in NAMES], "qlora")


def plan_of(jobs: list[JobSpec], machines: int) -> Plan:
    offer = Offer(
        provider="runpod",
        instance_type="1x_L40S_SECURE",
        gpu="L40S",
        gpus=1,
        gpu_memory_gib=48,
        vcpus=16,
        host_memory_gib=62,
        region="CA",
        spot=False,
        usd_per_hour=1.09,
        source="snapshot",
        priced_at=None,
    )
    limits = Limits(max_usd=9.0)
    plans = Planner([JobNeeds.of(job, count_tokens) for job in jobs], kinds_of([offer]), limits).plan().plans
    return next(plan for plan in plans if plan.shape.machines == machines)


# --- what is submitted -------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cluster]:
    """Three machines, a job each."""
    monkeypatch.setenv("HF_TOKEN", "a-secret-that-must-not-travel")
    return clusters_of(plan_of(specs(), 3), specs(), "group", tmp_path / "launch")


def test_the_cap_of_the_plan_is_split_over_its_machines(three: list[Cluster]) -> None:
    assert [cluster.name for cluster in three] == ["launcher-group-1", "launcher-group-2", "launcher-group-3"]
    assert sum(cluster.worst_case_usd for cluster in three) <= 9.0
    for cluster in three:
        intent = cluster.intent(1000.0)
        assert intent.max_usd == cluster.worst_case_usd
        assert intent.deadline_at is not None
        until_deadline_usd = (intent.deadline_at - 1000.0) / 3600 * cluster.usd_per_hour
        assert until_deadline_usd <= cluster.worst_case_usd * 1.000001, "whichever comes first, the cap holds"


def test_the_job_on_the_node_is_the_job_here_with_the_price_it_is_metered_at(three: list[Cluster]) -> None:
    for cluster, spec in zip(three, specs(), strict=True):
        (here,) = cluster.config["file_mounts"].values()
        there = load_job(Path(here))
        assert there.resources.usd_per_hour == 1.09
        assert there.system_prompt_text() == spec.system_prompt_text()
        assert (there.train, there.method, there.budget, there.targets) == (
            *(spec.train, spec.method, spec.budget),
            spec.targets,
        )


def test_no_secret_stands_in_what_is_written(three: list[Cluster], tmp_path: Path) -> None:
    assert three[0].secrets == ("HF_TOKEN",) and set(three[0].secrets) <= set(SECRETS)
    assert "must-not-travel" not in yaml.safe_dump(three[0].config)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any("must-not-travel" in path.read_text(encoding="utf-8") for path in files)


def test_the_node_is_told_what_card_it_must_be(three: list[Cluster]) -> None:
    check = three[0].config["envs"]["LAUNCHER_CHECK"]
    assert check.startswith("--gpus 1 --gpu L40S --gpu-memory 48 --needs-gib ")


def test_data_of_ones_own_is_refused_before_anything_is_rented(tmp_path: Path) -> None:
    job = specs()[0]
    own = job.model_copy(update={"data": job.data.model_copy(update={"source": "/home/data.jsonl"})})
    with pytest.raises(Refused, match="data of your own cannot be launched yet"):
        clusters_of(plan_of([job], 1), [own], "group", tmp_path / "launch")
    assert not list(tmp_path.iterdir())


# --- the whole of it, on the sandbox's hosts -----------------------------------------------------------------------


@dataclass(frozen=True)
class Rehearsal:
    """The sandbox, a preset of few steps, and a folder for runs."""

    sandbox: Sandbox
    preset: Path
    folder: Path

    def command(self, *jobs: str, name: str, **options: str) -> list[str]:
        words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", value)]
        files = [str(ROOT / "jobs" / f"{job}.yaml") for job in jobs]
        launch = [sys.executable, "-m", "launcher", "launch", *files, "--yes", "--json", "--name", name, *words]
        return [*launch, "--preset", str(self.preset), "--runs-dir", str(self.folder)]

    def start(self, *jobs: str, name: str, **options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*jobs, name=name, **options),
            cwd=ROOT,
            env=self.sandbox.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rented(self) -> list[dict[str, Any]]:
        return [each for each in self.sandbox.ask("status")["instances"] if each["state"] != "terminated"]

    def invoice_usd(self, rental: str) -> tuple[float, float]:
        """Dollars and seconds that the emulated provider charges for a rental."""
        lines = [line for line in self.sandbox.ask("invoice")["lines"] if line["name"].startswith(rental)]
        return sum(line["usd"] for line in lines), sum(line["seconds"] for line in lines)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    home = tmp_path_factory.mktemp("launcher-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_HOME", str(home))
        sandbox = Sandbox(home / "sandbox")
        sandbox.folder.mkdir(parents=True)
        IMAGES.mkdir(parents=True, exist_ok=True)
        (sandbox.folder / "images").symlink_to(IMAGES)
        preset = home / "short.yaml"
        preset.write_text(SHORT, encoding="utf-8")
        sandbox.up(NETWORK, print)
        try:
            yield Rehearsal(sandbox, preset, tmp_path_factory.mktemp("runs"))
        finally:
            sandbox.down()


@pytest.mark.sandbox
def test_a_launch_trains_there_comes_home_and_leaves_nothing(rehearsal: Rehearsal) -> None:
    done = rehearsal.start("veran-tools", name="whole", provider="lambda", max_usd="2")
    out, err = done.communicate(timeout=400)
    assert done.returncode == 0, err
    result = json.loads(out)
    assert [row["state"] for row in result["runs"]] in (["succeeded"], ["stopped"]), "patience may end so short a run"
    run = rehearsal.folder / "veran-tools-whole"
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["tuned"]
    assert rehearsal.rented() == []
    ledger_usd, (invoice_usd, seconds) = (
        result["cost"]["usd"]["launcher-whole-1"],
        rehearsal.invoice_usd("launcher-whole-1"),
    )
    two_seconds_usd = 2 * invoice_usd / seconds
    assert invoice_usd <= ledger_usd <= invoice_usd + max(0.005 * invoice_usd, two_seconds_usd)
    assert ledger_usd <= 2.0


@pytest.mark.sandbox
def test_ctrl_c_leaves_nothing_rented(rehearsal: Rehearsal) -> None:
    launch = rehearsal.start("veran-tools", name="broken", provider="lambda", max_usd="2")
    wait_until(lambda: bool(rehearsal.rented()), 120)
    launch.send_signal(signal.SIGINT)
    _, err = launch.communicate(timeout=200)
    assert launch.returncode == 130, err
    assert rehearsal.rented() == []
    assert json.loads((rehearsal.folder / "veran-tools-broken" / "run.json").read_text())["state"] in (
        "failed",
        "stopped",
    )


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, f"not so after {seconds:g} s"
        time.sleep(0.5)
