"""A home directory of the sandbox's own: dummy keys, price catalogs and SkyPilot's settings; and the environment that
makes programs use it."""

from __future__ import annotations

import ast
import csv
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from launcher.cost.ledger import launcher_home
from launcher.sandbox import redirect
from launcher.sandbox.network import Network

KEY = "sandbox"  # of no account anywhere
FIRST_API_SERVER_PORT = 46_700  # SkyPilot's own is 46580: a user's real API server runs on beside the sandbox's
_KEY_FILES = {
    ".lambda_cloud/lambda_keys": f"api_key = {KEY}\n",
    ".runpod/config.toml": f'[default]\napi_key = "{KEY}"\n',
    ".config/vastai/vast_api_key": f"{KEY}\n",
}
_SKY_CONFIG = """\
# Any other cloud would be asked by `sky check`, for minutes, with no way out.
allowed_clouds: [lambda, runpod, vast]
jobs:
  controller:
    consolidation_mode: true  # Lambda cannot host a controller
"""
# Settings of the user's own that would lead out of the sandbox or to the user's own clusters; and one that is slow.
_UNSET = (
    "VAST_API_KEY",
    "LAMBDA_API_KEY",
    "RUNPOD_API_KEY",
    "RUNPOD_AI_API_KEY",
    "SKYPILOT_API_SERVER_ENDPOINT",
    "SKYPILOT_GLOBAL_CONFIG",
    "SKYPILOT_PROJECT_CONFIG",
    "SKY_RUNTIME_DIR",
    # Importing SkyPilot a dozen times a launch takes minutes more where nothing keeps the bytecode.
    "PYTHONDONTWRITEBYTECODE",
)
_SANDBOX_ONLY = ("LAUNCHER_SANDBOX", "LAUNCHER_SANDBOX_URL", "PYTHONPATH", "no_proxy", "NO_PROXY")


def prepare_home(home: Path, redirection: Path, wheels: Path) -> None:
    """Write the home directory and the folder for PYTHONPATH anew, keeping what SkyPilot remembers in that home."""
    for name, content in _KEY_FILES.items():
        _write(home / name, content)
        (home / name).chmod(0o600)
    _write(home / ".sky/config.yaml", _SKY_CONFIG)
    _copy_catalogs(Path(str(files("launcher") / "assets" / "catalogs" / "v8")), home / ".sky/catalogs/v8")
    shutil.copytree(wheels, home / ".sky/wheels", dirs_exist_ok=True)
    for wheel in (home / ".sky/wheels").rglob("*"):
        # SkyPilot builds one anew, over the network, that is older than its folders, and those change whenever Python
        # writes bytecode. The image's recipe has seen to it that the version is right.
        os.utime(wheel, (time.time(), time.time() + 10 * 365 * 86_400))
    _write(redirection / "sitecustomize.py", "import launcher_sandbox_redirect\n")
    shutil.copyfile(redirect.__file__, redirection / "launcher_sandbox_redirect.py")


def environment(home: Path, redirection: Path, network: Network, url: str) -> dict[str, str | None]:
    """Variables that put a shell into the sandbox; None is one to be unset."""
    inside = ",".join((network.gateway, "127.0.0.1", "localhost"))
    variables: dict[str, str | None] = dict.fromkeys(_UNSET)
    variables |= {
        "LAUNCHER_HOME": str(launcher_home().absolute()),
        "LAUNCHER_SANDBOX": "1",
        "LAUNCHER_SANDBOX_URL": url,
        "LAUNCHER_LAMBDA_URL": f"{url}/lambda",
        "LAUNCHER_RUNPOD_URL": f"{url}/runpod",
        "LAUNCHER_VAST_URL": f"{url}/vast",
        **redirect.client_settings(url),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PYTHONPATH": _first(str(redirection), "PYTHONPATH"),
        "PATH": _first(str(Path(sys.prefix) / "bin"), "PATH"),
        "no_proxy": inside,
        "NO_PROXY": inside,
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        "SKYPILOT_API_SERVER_LOCAL_PORT": str(FIRST_API_SERVER_PORT + network.number),
        # SkyPilot sizes its workers by the machine's memory: with all of it, a dozen processes of 400 MB.
        "SKYPILOT_POD_MEMORY_GB_LIMIT": "8",
        "SKYPILOT_POD_CPU_CORE_LIMIT": "2",
    }
    return variables


def as_shell(variables: Mapping[str, str | None]) -> str:
    """Lines for `eval` of a POSIX shell."""
    lines = [f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
             for name, value in variables.items()]  # fmt: skip
    return "\n".join(lines)


def as_environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the variables put into it, for a program to be started."""
    merged: dict[str, str | None] = {**os.environ, **variables}
    return {name: value for name, value in merged.items() if value is not None}


def outside_environment() -> dict[str, str]:
    """This process's environment without the sandbox it may be in: for what must reach the world (pip, uv, apt)."""
    return {name: value for name, value in os.environ.items() if name not in _SANDBOX_ONLY}


def _first(folder: str, variable: str) -> str:
    """The search path of that variable with the folder at its head, once."""
    others = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != folder]
    return os.pathsep.join([folder, *others])


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def _copy_catalogs(source: Path, target: Path) -> None:
    """The shipped price catalogs, and the two tables over all clouds that SkyPilot would fetch from the internet."""
    clouds: dict[str, set[str]] = {}
    memory_gb: dict[str, float] = {}
    for cloud, title in (("lambda", "Lambda"), ("runpod", "RunPod"), ("vast", "Vast")):
        (target / cloud).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / cloud / "vms.csv", target / cloud / "vms.csv")
        with (source / cloud / "vms.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                gpu = row["AcceleratorName"]
                if gpu:
                    clouds.setdefault(gpu, set()).add(title)
                    memory_gb.setdefault(gpu, _memory_gb(row["GpuInfo"]))
    (target / "common").mkdir(exist_ok=True)
    with (target / "common" / "accelerators.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("AcceleratorName", "Clouds"), *((g, str(sorted(c))) for g, c in clouds.items())])
    with (target / "common" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(gpu, gb, "NVIDIA") for gpu, gb in memory_gb.items()]
        csv.writer(file).writerows([("GPU", "MemoryGB", "Manufacturer"), *rows])


def _memory_gb(gpu_info: str) -> float:
    """Of one card; 0 where the catalog does not say. RunPod's catalog writes GiB where it says MiB."""
    if not gpu_info:
        return 0.0
    gpu = ast.literal_eval(gpu_info)["Gpus"][0]
    size = float(gpu["MemoryInfo"]["SizeInMiB"])
    return round(size / 1024 if size > 1000 else size)
