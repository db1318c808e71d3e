"""What is submitted to SkyPilot: a task file of `sky/` with a launch's own values filled in.

So `launcher launch` and plain `sky launch sky/NAME.yaml` run the same set-up and the same program; they differ in the
machine, in the environment's values and in whose keys travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import BadInput
from launcher.yamlfile import read_mapping

TASKS_DIR = Path(__file__).parents[2] / "sky"
# SkyPilot's provisioners of the other two start one node only.
MULTI_NODE_CLOUDS = ("lambda",)


@dataclass(frozen=True, kw_only=True)
class TaskValues:
    """What one launch puts into a task file; what is None or empty stays as the file says.

    name: of the task. choices: SkyPilot resources, in the order in which they are tried; what they leave out (autostop,
    disk) holds for all, as in the file. disk_gb: SkyPilot's `disk_size`. envs: values of variables that the file names.
    secrets: names only, of those the file names; the submitter passes their values apart from the task.
    file_mounts: path on the node -> path here.
    """

    name: str
    choices: Sequence[Mapping[str, Any]] = ()
    disk_gb: int | None = None
    idle_minutes: int | None = None
    nodes: int = 1
    envs: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    file_mounts: Mapping[str, str] = field(default_factory=dict)


def task_names() -> list[str]:
    """The task files there are."""
    return sorted(path.stem for path in TASKS_DIR.glob("*.yaml"))


def task_config(name: str, values: TaskValues) -> dict[str, Any]:
    """The task file `sky/NAME.yaml` as SkyPilot's `Task.from_yaml_config` takes it, with the values filled in.

    No secret's value is in it: a wanted secret is None, which SkyPilot refuses to run without, the others are left out.

    Raises:
        BadInput: no such file; a variable or secret that the file does not name; several nodes where there is but one.
    """
    if name not in task_names():
        raise BadInput(f"task {name!r}: one of {', '.join(task_names())} is needed")
    config = read_mapping(TASKS_DIR / f"{name}.yaml")
    faults = [
        *_unknown(name, "envs", values.envs, config),
        *_unknown(name, "secrets", values.secrets, config),
        *_unfit_for_nodes(name, values),
    ]
    if faults:
        raise BadInput(*faults)
    config |= {
        "name": values.name,
        "resources": _resources(config["resources"], values),
        "envs": {**config.get("envs", {}), **values.envs},
        "secrets": dict.fromkeys(values.secrets),
    }
    if values.nodes > 1:
        config["num_nodes"] = values.nodes
    if values.file_mounts:
        config["file_mounts"] = {**config.get("file_mounts", {}), **values.file_mounts}
    return config


def _resources(resources: Mapping[str, Any], values: TaskValues) -> dict[str, Any]:
    filled = dict(resources)
    if values.choices:
        filled["ordered"] = [dict(choice) for choice in values.choices]
    if values.disk_gb is not None:
        filled["disk_size"] = values.disk_gb
    if values.idle_minutes is not None:
        filled["autostop"] = {**filled["autostop"], "idle_minutes": values.idle_minutes}
    return filled


def _unknown(
    name: str, section: str, wanted: Mapping[str, str] | Sequence[str], config: Mapping[str, Any]
) -> list[str]:
    known = config.get(section, {})
    return [
        f"sky/{name}.yaml: {section}: {variable}: not one of {', '.join(known) or 'none'}"
        for variable in wanted
        if variable not in known
    ]


def _unfit_for_nodes(name: str, values: TaskValues) -> list[str]:
    if values.nodes == 1:
        return []
    clouds = dict.fromkeys(str(choice.get("infra", "")).split("/")[0] for choice in values.choices)
    unfit = [cloud or "any cloud" for cloud in clouds or [""] if cloud not in MULTI_NODE_CLOUDS]
    return [f"sky/{name}.yaml: {values.nodes} nodes on {cloud}: several nodes need lambda" for cloud in unfit]
