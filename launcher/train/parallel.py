"""Several fine-tunes at once under a Ray of our own: one GPU each where there are GPUs, a share of the CPUs where not.

The Ray started here is private to one group of runs: its own port, temporary folder and token. It is ended with the
program, and never `ray stop`ped: that would end every Ray of the machine, SkyPilot's too.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from launcher.errors import LauncherError, Refused

POLL_SECONDS = 0.5
STOP_GRACE_SECONDS = 120.0
SHUTDOWN_SECONDS = 5.0
WORKER_GIB = 1.5  # a worker's own memory with torch, transformers and TRL imported, before any model

# glibc gives buffers above its mmap threshold back to the kernel at every step and faults them in again at the next:
# a fifth of a small model's step. These keep them.
MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(128 << 20),
}


@dataclass(frozen=True)
class JobRequest:
    """One fine-tune to run: its run folder, the GPUs it wants, and whether it continues an earlier one."""

    run_dir: Path
    gpus: int
    resume: bool = False


@dataclass(frozen=True)
class Share:
    """What every job gets of the machine. A fraction of a CPU lets three jobs share two cores."""

    cpus: float
    gpus: int
    threads: int


def share_of_machine(requests: Sequence[JobRequest], cpus: int, gpus: int) -> Share:
    """Divide the machine among the jobs; jobs beyond what fits wait their turn.

    Raises:
        Refused: a job wants more GPUs than the machine has (Ray would wait for them for ever).
    """
    wanted = max((r.gpus for r in requests), default=1) if gpus else 0
    if wanted > gpus:
        raise Refused(f"a job asks for {wanted} GPUs and this machine has {gpus}; lower resources.gpus")
    if gpus:
        at_once = max(1, min(len(requests), gpus // wanted))
        cpus_each = max(1, cpus // at_once)
        return Share(cpus=float(cpus_each), gpus=wanted, threads=cpus_each)
    memory_gib = psutil.virtual_memory().available / 2**30
    at_once = max(1, min(len(requests), 2 * cpus, int(memory_gib / WORKER_GIB)))
    # Rounded down, so that the shares never add up to more than the machine.
    return Share(cpus=math.floor(100 * cpus / at_once) / 100, gpus=0, threads=max(1, cpus // at_once))


def worker_environment(threads: int) -> dict[str, str]:
    """Variables a worker needs before its first import."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve the other jobs
        "TOKENIZERS_PARALLELISM": "false",  # the tokenizers' own threads would fight over the cores
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "PYTHONUNBUFFERED": "1",
        **MALLOC_ENVIRONMENT,
    }


@cache
def _token() -> str:
    """One token for the life of this process: Ray keeps the first it has read."""
    return secrets.token_hex(32)


@contextmanager
def own_ray(token_dir: Path, cpus: int) -> Iterator[None]:
    """Start a Ray for this program alone and end it afterwards.

    Ray's sockets need a short path, so its temporary folder is made in the system's; the token lies in `token_dir`.
    """
    token_file = token_dir / "ray-token"
    token_file.touch(mode=0o600)
    token_file.write_text(_token(), encoding="utf-8")
    # Ray reads these when it is imported; without them it writes a token into the home directory.
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",  # a task without GPUs keeps CUDA_VISIBLE_DEVICES as it is
    )
    os.environ.pop("RAY_ADDRESS", None)  # another Ray on this machine is not ours
    os.environ.pop("WANDB_SERVICE", None)  # nor another program's W&B, which would keep a killed worker's run open
    import ray

    temporary = tempfile.mkdtemp(prefix="launcher-ray-")
    me = psutil.Process()
    before = set(me.children(recursive=True))
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=temporary,
        )
        yield
    finally:
        started = set(me.children(recursive=True)) - before
        ray.shutdown()
        _wait_until_gone(started)
        shutil.rmtree(temporary, ignore_errors=True)
        token_file.unlink(missing_ok=True)


def _wait_until_gone(processes: Collection[psutil.Process]) -> None:
    """Ray's workers notice only after a while that their Ray has ended: wait for them, and end those that do not."""
    _, alive = psutil.wait_procs(list(processes), timeout=SHUTDOWN_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=SHUTDOWN_SECONDS)


def _finetune_task(run_dir: str, resume: bool) -> None:
    started_at = time.time()  # the imports below are paid for too
    from launcher.rundir import RunFolder
    from launcher.train.finetune import finetune

    finetune(RunFolder(Path(run_dir)), resume, started_at)


def run_in_parallel(
    requests: Sequence[JobRequest],
    token_dir: Path,
    on_poll: Callable[[], None],
    ask_to_stop: Callable[[str], None],
) -> dict[Path, str | None]:
    """Run all jobs; return for each run folder None, or why its worker died.

    A job that fails does not touch the others. On Ctrl-C, `ask_to_stop` is called with the reason and the jobs get
    `STOP_GRACE_SECONDS` to save; a second Ctrl-C ends them at once. What a job did is in its run folder.

    Raises:
        Refused: the machine cannot meet a request.
        KeyboardInterrupt: after all jobs have stopped.
    """
    cpus = psutil.cpu_count(logical=True) or 1
    with own_ray(token_dir, cpus):
        import ray

        share = share_of_machine(requests, cpus, int(ray.cluster_resources().get("GPU", 0)))
        task = ray.remote(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_calls=1,  # a fresh process for every job: nothing of one run leaks into the next
            max_retries=0,
            runtime_env={"env_vars": worker_environment(share.threads)},
        )(_finetune_task)
        running = {task.remote(str(r.run_dir), r.resume): r.run_dir for r in requests}
        outcomes: dict[Path, str | None] = {}
        interrupted_at: float | None = None
        while running:
            try:
                done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                for reference in done:
                    outcomes[running.pop(reference)] = _outcome(reference)
                on_poll()
                if interrupted_at is not None and time.monotonic() - interrupted_at > STOP_GRACE_SECONDS:
                    break
            except KeyboardInterrupt:
                if interrupted_at is not None:
                    break
                interrupted_at = time.monotonic()
                ask_to_stop("interrupted by the user")
        for reference, run_dir in running.items():
            ray.cancel(reference, force=True)
            outcomes[run_dir] = "ended before it could save"
        on_poll()
    if interrupted_at is not None:
        raise KeyboardInterrupt
    return outcomes


def _outcome(reference: object) -> str | None:
    """None for a worker that returned; otherwise why it did not."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        return "its process died (killed, or out of memory)"
    except ray.exceptions.OutOfMemoryError:
        return "the machine ran out of memory; run fewer jobs at once"
    except ray.exceptions.RayTaskError as fault:
        cause = fault.cause
        return str(cause) if isinstance(cause, LauncherError) else f"{type(cause).__name__}: {cause}"
    except ray.exceptions.RayError as fault:
        return str(fault).splitlines()[0]
    return None
