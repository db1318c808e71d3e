"""Task files: SkyPilot itself reads them, they run programs that exist, hold no key, and end by themselves."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cloud.tasks import TaskValues, task_config, task_names
from launcher.errors import BadInput
from launcher.node.check_node import main as check_node
from tests.conftest import ROOT

CATALOGS = ROOT / "launcher/assets/catalogs/v8"
NAMES = sorted(path.stem for path in (ROOT / "sky").glob("*.yaml"))
TRAINING = ("dryrun", "specialist", "specialists")
VALUES = TaskValues(
    name="launcher-20260108-120000-3fa2-0",
    choices=[{"infra": "runpod/CA", "instance_type": "1x_A100-80GB_SECURE"}],
    disk_gb=100,
    idle_minutes=3,
    envs={"LAUNCHER_MAX_HOURS": "2.5", "LAUNCHER_CHECK": "--gpus 1 --gpu A100-PCIe --gpu-memory 80"},
    secrets=["HF_TOKEN"],
    file_mounts={"~/sky_workdir/price.yaml": "jobs/presets/tiny.yaml"},
)

# Reads task files, and the configs of launches, with SkyPilot's own parser; prints what it understood.
READER = """
import json, sys
import sky

assert "site-packages" in sky.__file__, "our folder sky/ must not shadow SkyPilot"

def seen(task):
    return {
        "ordered": isinstance(task.resources, list),
        "resources": [
            {
                "cloud": str(r.cloud).lower(), "instance_type": r.instance_type, "accelerators": r.accelerators,
                "down": r.autostop_config.down, "idle_minutes": r.autostop_config.idle_minutes, "disk": r.disk_size,
            }
            for r in task.resources
        ],
        "secrets": sorted(task.secrets), "envs": task.envs, "run": task.run, "setup": task.setup, "name": task.name,
    }

given = json.load(sys.stdin)
files = {name: seen(sky.Task.from_yaml(f"sky/{name}.yaml")) for name in given["names"]}
launches = {
    name: seen(sky.Task.from_yaml_config(config, secrets_overrides=[("HF_TOKEN", "x")]))
    for name, config in given["configs"].items()
}
print(json.dumps({"files": files, "launches": launches}))
"""


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "sky" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What SkyPilot makes of all files, and of a launch of each; a process of its own with the snapshot's catalogs."""
    home = tmp_path_factory.mktemp("home")
    catalogs = home / ".sky/catalogs/v8"
    shutil.copytree(CATALOGS, catalogs)
    (catalogs / "common").mkdir()
    names = {row["AcceleratorName"] for cloud in ("vast", "lambda", "runpod") for row in rows(cloud)} - {""}
    lines = ["AcceleratorName,Clouds", *(f'{name},"[]"' for name in sorted(names))]
    (catalogs / "common/accelerators.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = {"names": NAMES, "configs": {name: task_config(name, VALUES) for name in NAMES}}
    environment = os.environ | {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", READER], cwd=ROOT, env=environment, input=json.dumps(given), capture_output=True,
        text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


def rows(cloud: str) -> list[dict[str, str]]:
    with (CATALOGS / cloud / "vms.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_skypilot_reads_it(name: str, parsed: dict[str, Any]) -> None:
    task = parsed["files"][name]
    assert task["ordered"]
    assert {resource["cloud"] for resource in task["resources"]} == {"vast", "lambda", "runpod"}
    assert all(resource["down"] and resource["idle_minutes"] <= 10 for resource in task["resources"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_launch_submits_the_same_task_with_its_values(name: str, parsed: dict[str, Any]) -> None:
    file, launch = parsed["files"][name], parsed["launches"][name]
    assert (launch["setup"], launch["run"]) == (file["setup"], file["run"])
    assert launch["envs"] == file["envs"] | VALUES.envs
    assert launch["name"] == VALUES.name and launch["secrets"] == ["HF_TOKEN"]
    assert launch["resources"] == [
        {
            "cloud": "runpod", "instance_type": "1x_A100-80GB_SECURE", "accelerators": {"A100-80GB": 1},
            "down": True, "idle_minutes": 3, "disk": 100,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_sold_at_the_price_in_its_comment(name: str) -> None:
    text = (ROOT / "sky" / f"{name}.yaml").read_text(encoding="utf-8")
    for choice in read(name)["resources"]["ordered"]:
        line = next(line for line in text.splitlines() if "{infra: " + choice["infra"] in line)
        assert f"{gpus_and_price(choice)[1]:.2f} usd/h" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["specialist", "specialists"])
def test_every_choice_is_one_that_the_planner_says_fits(name: str, tmp_path: Path) -> None:
    task = read(name)
    command = [sys.executable, "-m", "launcher", "plan", *task["envs"]["LAUNCHER_JOBS"].split(), "--json", "--offline"]
    answer = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    plans = {
        (plan["provider"], plan["gpus"], plan["usd_per_hour"]): plan for plan in json.loads(answer.stdout)["plans"]
    }
    usd = []
    for choice in task["resources"]["ordered"]:
        gpus, usd_per_hour = gpus_and_price(choice)
        plan = plans[(choice["infra"], gpus, usd_per_hour)]
        usd.append(plan["usd"]["p50"])
        asked = option(task, "--needs-gib")
        assert plan["peak_high_gib"] <= asked <= plan["usable_gib"]
        assert plan["disk_gib"] <= task["resources"]["disk_size"]
        assert option(task, "--gpu-memory") <= plan["gpu_memory_gib"]
    assert usd == sorted(usd), "the cheapest is tried first"


def option(task: dict[str, Any], name: str) -> float:
    """The value of an option of the task's check."""
    words = task["envs"]["LAUNCHER_CHECK"].split()
    return float(words[words.index(name) + 1])


def gpus_and_price(choice: dict[str, Any]) -> tuple[int, float]:
    """GPUs of a choice, and the cheapest price of such a machine in the snapshot, USD an hour."""
    gpu, _, count = choice.get("accelerators", ":0").partition(":")
    offers = [
        row for row in rows(choice["infra"])
        if row["AcceleratorName"] == gpu and float(row["AcceleratorCount"] or 0) == float(count)
    ]  # fmt: skip
    return int(count), min(float(row["Price"]) for row in offers)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_programs_and_jobs_that_exist(name: str) -> None:
    task = read(name)
    text = f"{task['setup']}\n{task['run']}\n{task['envs']}"
    for path in re.findall(r"(?:jobs|scripts)/[\w.-]+\.(?:yaml|sh)", text):
        assert (ROOT / path).is_file()
    for module in re.findall(r"-m ([\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_it_checks_the_node_before_it_downloads_anything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = read(name)
    commands = [line for line in task["setup"].splitlines() if line != "set -e"]
    assert commands[0] == "python3 -m launcher.node.check_node $LAUNCHER_CHECK"
    assert check_node([*task["envs"]["LAUNCHER_CHECK"].split(), "--host-memory", "1000000"]) == 3
    assert "not the machine that was planned" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_no_key(name: str) -> None:
    task = read(name)
    assert all(value == "" for value in task["secrets"].values())
    assert not any(re.search("KEY|TOKEN|SECRET|PASSWORD", variable) for variable in task["envs"])


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_task_has_a_deadline_in_hours_and_none_is_longer_than_the_jobs(name: str) -> None:
    assert 0 < float(read(name)["envs"]["LAUNCHER_MAX_HOURS"]) <= 6


def test_a_launch_names_what_it_does_not_find() -> None:
    with pytest.raises(BadInput, match="task 'servo': one of dryrun, "):
        task_config("servo", VALUES)
    wrong = TaskValues(name="x", envs={"LAUNCHER_JOB": "a"}, secrets=["AWS_KEY"])
    with pytest.raises(BadInput) as caught:
        task_config("specialist", wrong)
    assert [fault.split(": not one of")[0] for fault in caught.value.faults] == [
        "sky/specialist.yaml: envs: LAUNCHER_JOB",
        "sky/specialist.yaml: secrets: AWS_KEY",
    ]


def test_several_nodes_are_lambdas_alone() -> None:
    choices = [{"infra": "lambda", "instance_type": "gpu_8x_a100_80gb_sxm4"}]
    assert task_config("specialists", TaskValues(name="x", choices=choices, nodes=2))["num_nodes"] == 2
    with pytest.raises(BadInput, match="2 nodes on vast: several nodes need lambda"):
        task_config("specialists", TaskValues(name="x", choices=[*choices, {"infra": "vast"}], nodes=2))
    with pytest.raises(BadInput, match="2 nodes on any cloud"):
        task_config("specialists", TaskValues(name="x", nodes=2))


@pytest.mark.parametrize("name", task_names())
def test_without_values_a_launch_is_the_file(name: str) -> None:
    file = read(name)
    assert task_config(name, TaskValues(name=file["name"], secrets=list(file["secrets"]))) == file | {
        "secrets": dict.fromkeys(file["secrets"])
    }
