"""The frame around one job's work in its own process: lock, log, state, deadline process, and an honest end."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

from launcher.errors import Interrupted, LauncherError
from launcher.rundir import RunFolder, RunState, now_iso

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "ray", "wandb")
VARIABLES = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "MALLOC_MMAP_THRESHOLD_")


@contextmanager
def run_session(folder: RunFolder) -> Iterator[None]:
    """Own the run folder while one job works in this process, and write down how it ended.

    A `LauncherError` or any other exception makes the run `failed`, with the reason in `run.json` and the traceback in
    `log.txt`; it is raised on. `Interrupted` makes it `stopped`.
    """
    lock = folder.claim()
    me = psutil.Process()
    folder.update_record(
        state=RunState.RUNNING, started_at=folder.read_record().started_at or now_iso(), ended_at=None,
        stop_reason=None, error=None, pid=me.pid, pid_created_at=me.create_time(),
        host=platform.node(),
    )  # fmt: skip
    count_time_of_hung_leg(folder)
    folder.write_json(folder.environment_file, describe_environment())
    with _output_to(folder.log_file):
        try:
            yield
        except Interrupted as stop:
            folder.update_record(state=RunState.STOPPED, stop_reason=str(stop), ended_at=now_iso())
        except BaseException as fault:
            traceback.print_exc()
            ended = folder.read_json(folder.deadline_file)
            if ended is not None:  # under Ray, the deadline process's SIGTERM is raised here as SystemExit
                folder.update_record(state=RunState.STOPPED, stop_reason=ended["reason"], ended_at=now_iso())
                raise
            error = str(fault) if isinstance(fault, LauncherError) else f"{type(fault).__name__}: {fault}"
            folder.update_record(state=RunState.FAILED, error=error, ended_at=now_iso())
            raise
        finally:
            folder.update_record(cpu_seconds=time.process_time())
            lock.release()


def count_time_of_hung_leg(folder: RunFolder) -> None:
    """Add to the run's paid time what an earlier leg spent hanging until it was ended; take away that leg's reason."""
    ended, progress = folder.read_json(folder.deadline_file), folder.read_json(folder.progress_file)
    if ended is not None and progress is not None and ended["at"] > progress["updated_at"]:
        progress["elapsed_s"] += ended["at"] - progress["updated_at"]
        folder.write_json(folder.progress_file, progress | {"updated_at": ended["at"]})
    folder.deadline_file.unlink(missing_ok=True)


@contextmanager
def _output_to(log_file: Path) -> Iterator[None]:
    """Send everything this process says, from C too, to the run's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)
        os.close(target)


def describe_environment() -> dict[str, object]:
    """The machine and the versions a run's figures hold for."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpu_names(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "command": sys.argv,
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def device_name() -> str:
    """What the training runs on: the GPU's name, or the processor's."""
    return next(iter(_gpu_names()), _processor_name())


def environment_json() -> str:
    """`describe_environment` as text, for programs that print it."""
    return json.dumps(describe_environment(), indent=2)
