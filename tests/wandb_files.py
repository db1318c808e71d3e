"""Read W&B's offline files back, as `wandb sync` would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from launcher.rundir import RunFolder
from launcher.train.tracking import offline_files


@dataclass(frozen=True)
class OfflineRun:
    """One offline run; a resumed one joins its files, which share the id."""

    id: str
    group: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    files: int


def read_offline_run(folder: RunFolder) -> OfflineRun:
    ids, groups, config, history, summary = set(), set(), {}, [], {}
    files = offline_files(folder)
    for path in files:
        store = DataStore()
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                groups.add(record.run.run_group)
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                history.append(_items(record.history.item))
            elif kind == "summary":
                summary |= _items(record.summary.update)
    assert len(ids) == 1 and len(groups) == 1, (ids, groups)
    return OfflineRun(ids.pop(), groups.pop(), config, history, summary, len(files))


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
