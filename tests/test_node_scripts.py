"""The node's scripts: set-up installs a lock once and is then instant; a run has its watchers and its own settings."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

LOCK = hashlib.sha256(
    b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "pyproject.toml"))
).hexdigest()

# Stands for uv: `venv DIRECTORY` and `pip install` leave what the real one would, and a line in a log.
UV = """#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/log"
if [ "$1" = venv ]; then mkdir -p "${@: -1}/bin"; ln -s "$(command -v python3)" "${@: -1}/bin/python"; fi
"""

WHAT_A_RUN_SEES = """
import json, os, sys, time
import psutil

names = ("OMP_NUM_THREADS", "HF_TOKEN", "WANDB_API_KEY", "RAY_ADDRESS")
[heartbeat] = psutil.Process().children()
while "-m" not in heartbeat.cmdline():  # the shell's fork, not yet the program
    time.sleep(0.02)
watchers = [heartbeat.cmdline()]
print(json.dumps({name: os.environ.get(name) for name in names} | {"argv": sys.argv[1:], "watchers": watchers}))
"""


@pytest.fixture
def node(tmp_path: Path, own_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs one of the scripts as a node would, with a stand-in for uv."""
    # A Python without pip: there are no package sources to ask for.
    for name, text in (("uv", UV), ("python3", "#!/bin/sh\nexit 1\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "LAUNCHER_HOME": str(own_home), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / script, *arguments], env=environment | variables, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def deadman_file(own_home: Path) -> Iterator[Path]:
    """Where the node's deadman leaves its name; it is ended after the test."""
    file = own_home / "deadman.json"
    yield file
    if file.exists():
        psutil.Process(json.loads(file.read_text(encoding="utf-8"))["pid"]).kill()


def test_set_up_installs_the_lock_once(node: Callable[..., subprocess.CompletedProcess[str]], own_home: Path) -> None:
    first = node("node_setup.sh")
    assert first.returncode == 0 and "locked packages" in first.stderr, first.stderr
    environment = own_home / "environments" / LOCK[:16]
    assert (own_home / "node-env").resolve() == environment.resolve()
    done = (own_home.parent / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in done] == ["venv", "pip"] and "-r requirements.lock" in done[1]

    second = node("node_setup.sh")
    assert second.returncode == 0 and not second.stderr
    assert (own_home.parent / "log").read_text(encoding="utf-8").splitlines() == done, "nothing is installed again"


def test_an_interrupted_set_up_is_done_anew(
    node: Callable[..., subprocess.CompletedProcess[str]], own_home: Path
) -> None:
    node("node_setup.sh")
    (own_home / "environments" / LOCK[:16] / ".lock-installed").unlink()
    again = node("node_setup.sh")
    assert again.returncode == 0 and "locked packages" in again.stderr


def test_a_given_environment_is_checked_and_nothing_is_installed(
    node: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    given = tmp_path / "given"
    (given / "bin").mkdir(parents=True)
    (given / "bin/python").symlink_to(sys.executable)
    (given / ".lock-installed").write_text("0" * 64, encoding="utf-8")
    refused = node("node_setup.sh", LAUNCHER_NODE_ENV=str(given))
    assert refused.returncode == 3 and "is not the environment of this requirements.lock" in refused.stderr
    (given / ".lock-installed").write_text(LOCK, encoding="utf-8")
    assert node("node_setup.sh", LAUNCHER_NODE_ENV=str(given)).returncode == 0
    assert not (tmp_path / "log").exists()


def test_a_run_has_its_watchers_and_no_setting_of_skypilots_ray(
    node: Callable[..., subprocess.CompletedProcess[str]], deadman_file: Path, tmp_path: Path
) -> None:
    answer = node(
        "node_run.sh", "-c", WHAT_A_RUN_SEES, "jobs/a.yaml",
        LAUNCHER_NODE_ENV=sys.prefix, LAUNCHER_MAX_HOURS="1", LAUNCHER_TEARDOWN="",
        OMP_NUM_THREADS="1", RAY_ADDRESS="127.0.0.1:6380", HF_TOKEN="", WANDB_API_KEY="key",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout)
    [heartbeat] = seen.pop("watchers")
    assert "launcher.node.heartbeat" in heartbeat
    assert seen == {
        "OMP_NUM_THREADS": None, "HF_TOKEN": None, "WANDB_API_KEY": "key", "RAY_ADDRESS": None, "argv": ["jobs/a.yaml"],
    }  # fmt: skip
    deadman = psutil.Process(json.loads(deadman_file.read_text(encoding="utf-8"))["pid"])
    assert "launcher.node.deadman" in deadman.cmdline()


def test_a_run_without_a_deadline_does_not_start(node: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = node("node_run.sh", "-c", "print('started')", LAUNCHER_NODE_ENV=sys.prefix)
    assert answer.returncode != 0 and "LAUNCHER_MAX_HOURS" in answer.stderr and "started" not in answer.stdout
