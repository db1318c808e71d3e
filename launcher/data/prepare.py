"""From a job's `data` section to its examples: read or generate, split, take the job's tools, and write them down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.data.examples import ToolExample
from launcher.data.generator import generate
from launcher.data.json_stream import iter_values
from launcher.data.plan_format import example_from_record, read_plan_examples, write_plan_examples
from launcher.data.split import PARTS, split_examples, split_manifest
from launcher.data.tools import BUILTIN, ToolSet, load_tools, tool_set_from
from launcher.errors import BadInput
from launcher.rundir import RunFolder

if TYPE_CHECKING:
    from launcher.job import JobSpec

EXTRA_TEST = "extra_test"
BUILTIN_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class PreparedData:
    """The examples of one job. `extra_test` is empty for data of a user's own; `tool_set` holds the job's tools."""

    train: tuple[ToolExample, ...]
    validation: tuple[ToolExample, ...]
    test: tuple[ToolExample, ...]
    extra_test: tuple[ToolExample, ...]
    manifest: Mapping[str, Any]
    tool_set: ToolSet


def prepare_job(spec: JobSpec) -> PreparedData:
    """The data of a job: `prepare` with the values of its spec."""
    data = spec.data
    shares = {part: getattr(data.splits, part) for part in PARTS}
    return prepare(data.source, data.tools, shares, data.seed, spec.evaluate.extra_test_examples)


def prepare(
    source: str, tools: Sequence[str] | None, shares: Mapping[str, float], seed: int, extra_test_examples: int
) -> PreparedData:
    """Read or generate the examples, split them all, and keep those that use only the job's tools.

    Args:
        source: `builtin:specialists`, or the path of a file or folder in the plan's format.
        tools: Full names of the job's tools; None is all.
        shares: Share of `train`, `validation` and `test`.
        seed: Decides the generated examples, or the split of a user's own.
        extra_test_examples: How many more test examples to generate; only the built-in data has them.

    Raises:
        BadInput: an unknown tool, faults in the data, no examples for these tools, or an empty part.
    """
    tool_set = load_tools()
    if tools is not None:
        tool_set = tool_set.subset(tools)
    if source == BUILTIN:
        everything, details = _generated(shares, seed, extra_test_examples, tool_set.names)
    else:
        everything, details = split_examples(tuple(read_plan_examples(source)), shares, seed), {}
    names = set(tool_set.names)
    parts = {
        part: tuple(e for e in examples if {call.name for call in e.calls} <= names)
        for part, examples in everything.items()
    }
    faults = _empty_parts(source, tool_set.names, shares, parts, everything)
    if faults:
        raise BadInput(*faults)
    parts.setdefault(EXTRA_TEST, ())
    manifest = {"source": source, "seed": seed, "tools": tool_set.names, **details, "parts": split_manifest(parts)}
    return PreparedData(**parts, manifest=manifest, tool_set=tool_set)


def write_prepared(data: PreparedData, folder: RunFolder) -> None:
    """Write every part to `data/*.jsonl`, the job's tools beside them, and the manifest to `split.json`.

    Raises:
        OSError: the disk is full; no half-written file is left.
    """
    for part in (*PARTS, EXTRA_TEST):
        write_plan_examples(folder.data_dir / f"{part}.jsonl", getattr(data, part))
    folder.write_json(folder.data_dir / "tools.json", data.tool_set.functions())
    folder.write_json(folder.split_file, data.manifest)


def read_prepared(folder: RunFolder) -> PreparedData:
    """Read back what `write_prepared` wrote.

    Raises:
        BadInput: a file of the run is missing or damaged, or an example is not the one the manifest was made of.
    """
    parts = {part: _read_part(folder, part) for part in (*PARTS, EXTRA_TEST)}
    manifest, tools = folder.read_json(folder.split_file), folder.read_json(folder.data_dir / "tools.json")
    if manifest is None or tools is None:
        raise BadInput(f"{folder.path}: split.json or data/tools.json is missing; start the job again")
    if manifest["parts"] != split_manifest(parts):
        raise BadInput(f"{folder.data_dir}: the examples are not those of split.json; start the job again")
    return PreparedData(**parts, manifest=manifest, tool_set=tool_set_from(tools, str(folder.data_dir / "tools.json")))


def _generated(
    shares: Mapping[str, float], seed: int, extra_test_examples: int, tools: tuple[str, ...]
) -> tuple[dict[str, tuple[ToolExample, ...]], dict[str, Any]]:
    """The built-in examples by part, and what the manifest says about how they were made."""
    if dict(shares) != BUILTIN_SHARES:
        wanted = ", ".join(f"{part} {share:g}" for part, share in BUILTIN_SHARES.items())
        raise BadInput(
            f"data.splits: {BUILTIN} comes split into 683/86/85 examples, so that no phrasing of one part is in "
            f"another; it needs {wanted}"
        )
    made = generate(seed, extra_test_examples, (tools,))
    records = {part: made.part(part) for part in PARTS} | {EXTRA_TEST: list(made.extra_test)}
    parts = {
        part: tuple(example_from_record(record, f"{BUILTIN}: {part}", None) for record in rows)
        for part, rows in records.items()
    }
    nearness = {"median": made.similarity.median(), "max": made.similarity.highest()}
    return parts, {"generated": {"sha256": made.sha256, "similarity_to_training": nearness}}


def _empty_parts(
    source: str,
    tools: Sequence[str],
    shares: Mapping[str, float],
    parts: Mapping[str, Sequence[ToolExample]],
    everything: Mapping[str, Sequence[ToolExample]],
) -> list[str]:
    """What is wrong where no example, or none of a part, uses only the job's tools."""
    used = Counter(call.name for part in PARTS for example in everything[part] for call in example.calls)
    if not any(parts[part] for part in PARTS):
        there = ", ".join(f"{tool} ({number} calls)" for tool, number in sorted(used.items()))
        return [f"data.tools: no example of {source} uses only {', '.join(tools)}; tools used there: {there}"]
    counts = ", ".join(f"{part} {len(parts[part])}" for part in PARTS)
    return [
        f"data: no example for {part} ({counts}); give more examples, more different requests, more tools, "
        f"or a greater data.splits.{part}"
        for part in PARTS
        if not parts[part] and shares[part] > 0
    ]


def _read_part(folder: RunFolder, part: str) -> tuple[ToolExample, ...]:
    file = folder.data_dir / f"{part}.jsonl"
    items = list(iter_values(file))
    faults = [f"{item.where}: {item.fault}" for item in items if item.fault]
    if faults:
        raise BadInput(*faults)
    return tuple(example_from_record(item.value, item.where, None) for item in items)
