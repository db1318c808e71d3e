"""The 854 tool-calling examples of the specialists plan, and a larger test set from the same test phrasings.

Deterministic: the data seed alone decides every byte, on any machine. The records have the plan's own input format, as
a user would have them on disk, with the phrasing's id as `template`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from launcher.data.examples import ToolCall
from launcher.data.guard import (
    NOT_HELD_OUT,
    PhrasingChoice,
    choose_phrasings,
    measure_similarity,
    request_skeleton,
)
from launcher.data.plan_format import to_json_lines
from launcher.data.pool import Phrasing
from launcher.data.skeleton import NearestSkeletons
from launcher.data.values import SYMBOLS, fill, tools_of, wrap
from launcher.errors import BadInput, LauncherError
from launcher.rundir import write_atomically

Record = dict[str, Any]

# The plan's figures per tool. They close only as counts of calls: 1,137 calls in 854 examples.
CALLS_PER_TOOL = {
    "yaze_debugger.read_memory": 61,
    "z3ed_cli.inspect": 40,
    "z3ed_cli.extract": 92,
    "mesen2.read_memory": 137,
    "mesen2.load_rom": 189,
    "mesen2.run": 90,
    "mesen2.screenshot": 189,
    "yaze_debugger.write_memory": 157,
    "yaze_debugger.assemble": 1,
    "z3ed_cli.import": 90,
    "z3ed_cli.validate": 91,
}
# 283 calls more than examples: 163 workflows of two calls and 60 of three make up for them.
WORKFLOWS = {"load+run+shot": 60, "load+shot": 80, "run+shot": 15, "import+validate": 40, "write+validate": 28}
PART_SIZES = {"train": 683, "validation": 86, "test": 85}
SPECIALISTS = {
    "VERAN-tools": ("yaze_debugger.read_memory", "z3ed_cli.inspect", "z3ed_cli.extract", "mesen2.read_memory"),
    "FARORE-debug": ("mesen2.load_rom", "mesen2.run", "mesen2.screenshot", "yaze_debugger.read_memory"),
    "NAYRU-editor": ("yaze_debugger.write_memory", "yaze_debugger.assemble", "z3ed_cli.import", "z3ed_cli.validate"),
}
# A phrasing with few slots runs out of new requests in the end.
DRAWS_BEFORE_GIVING_UP = 200
# Of `GeneratedData.sha256` for data seed 0.
SEED_0_SHA256 = "408b633df2c525e7905f97fe9f715fe7e3f8fe9509383cd28439cb886cc07e80"
RATIONALE = {
    "yaze_debugger.read_memory": ("Read memory at the address asked for", "Bytes in the format asked for"),
    "yaze_debugger.write_memory": ("Write the value to the address asked for", "Confirmation of the bytes written"),
    "yaze_debugger.assemble": ("Assemble the code at the address asked for", "Machine code and its length"),
    "z3ed_cli.inspect": ("Look at the resource asked for", "Properties of the resource"),
    "z3ed_cli.extract": ("Export the resource to the file asked for", "Path of the file written"),
    "z3ed_cli.import": ("Import the file as the resource asked for", "Confirmation of the import"),
    "z3ed_cli.validate": ("Check the ROM for errors", "List of errors, empty where the ROM is valid"),
    "mesen2.read_memory": ("Read live memory from the emulator", "Bytes of the memory asked for"),
    "mesen2.load_rom": ("Load the ROM into the emulator", "Confirmation that the ROM runs"),
    "mesen2.run": ("Let the emulation run as far as asked for", "Frame reached"),
    "mesen2.screenshot": ("Capture the screen", "Path of the image written"),
}


@dataclass(frozen=True)
class GeneratedData:
    """What one data seed makes: records in the plan's input format, and which part each belongs to, by id."""

    seed: int
    records: tuple[Record, ...]
    part_of: Mapping[str, str]
    extra_test: tuple[Record, ...]
    phrasings: PhrasingChoice
    similarity: NearestSkeletons

    def part(self, name: str) -> list[Record]:
        """The records of `train`, `validation` or `test`."""
        return [record for record in self.records if self.part_of[record["id"]] == name]

    @property
    def sha256(self) -> str:
        """Over every record with its part and over the extra test set, as JSON lines."""
        rows = [{"part": self.part_of[record["id"]], **record} for record in self.records]
        rows += [{"part": "extra_test", **record} for record in self.extra_test]
        return hashlib.sha256(to_json_lines(rows).encode()).hexdigest()


@lru_cache(maxsize=8)
def generate(
    seed: int, extra_test_per_subset: int = 300, subsets: tuple[tuple[str, ...], ...] = tuple(SPECIALISTS.values())
) -> GeneratedData:
    """Make the 854 examples of a data seed, and at least `extra_test_per_subset` more test examples for each subset.

    An example belongs to a subset (a tuple of tool names) if all its tools do.

    Raises:
        LauncherError: the pool is not the committed one, a test phrasing reached training, or test and training are
            nearer than `launcher.data.guard` allows.
        BadInput: more test examples are asked for than the test phrasings can give.
    """
    phrasings = choose_phrasings(seed)
    kinds = examples_per_kind()
    held_out = {kind: number for kind, number in kinds.items() if kind != NOT_HELD_OUT}
    sizes = {part: apportion(held_out, PART_SIZES[part]) for part in ("test", "validation")}
    sizes["train"] = {
        kind: n - sizes["test"].get(kind, 0) - sizes["validation"].get(kind, 0) for kind, n in kinds.items()
    }
    sizes["extra_test"] = _extra_sizes(held_out, extra_test_per_subset, subsets)
    taken: set[str] = set()
    ids = {kind: _ids(kind) for kind in kinds}
    made: dict[str, list[Record]] = {}
    # Training last, and never a request that is held out: what is added to training cannot change the other parts.
    for part in ("test", "validation", "extra_test", "train"):
        source = phrasings.test if part == "extra_test" else getattr(phrasings, part)
        made[part] = []
        for kind, size in sizes[part].items():
            names = _ids(kind, "_extra") if part == "extra_test" else ids[kind]
            records = list(islice(_records(seed, kind, part, source, taken, names), size))
            if len(records) < size:
                raise BadInput(f"{kind}: only {len(records)} different requests can be made for {part}, not {size}")
            made[part] += records
        random.Random(f"{seed}-{part}").shuffle(made[part])
    similarity = _check(made, phrasings)
    records = [record for part in PART_SIZES for record in made[part]]
    part_of = {record["id"]: part for part in PART_SIZES for record in made[part]}
    random.Random(f"{seed}-all").shuffle(records)
    return GeneratedData(seed, tuple(records), part_of, tuple(made["extra_test"]), phrasings, similarity)


def examples_per_kind() -> dict[str, int]:
    """How many examples each tool alone and each workflow has: the calls of the plan, less those inside workflows."""
    inside: Counter[str] = Counter()
    for workflow, number in WORKFLOWS.items():
        inside.update(dict.fromkeys(tools_of(workflow), number))
    return {tool: number - inside[tool] for tool, number in CALLS_PER_TOOL.items()} | WORKFLOWS


def apportion(weights: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out `total` in proportion to the weights by largest remainder; equal remainders go to the first."""
    whole = sum(weights.values())
    if not whole:
        return dict.fromkeys(weights, 0)
    shares = {key: weight * total // whole for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: -(weights[key] * total % whole))
    for key in by_remainder[: total - sum(shares.values())]:
        shares[key] += 1
    return shares


def _extra_sizes(kinds: Mapping[str, int], per_subset: int, subsets: Sequence[Sequence[str]]) -> dict[str, int]:
    sizes = dict.fromkeys(kinds, 0)
    for subset in subsets:
        inside = {kind: number for kind, number in kinds.items() if set(tools_of(kind)) <= set(subset)}
        for kind, size in apportion(inside, per_subset).items():
            sizes[kind] = max(sizes[kind], size)
    return sizes


def _ids(kind: str, suffix: str = "") -> Iterator[str]:
    name = kind.replace(".", "_").replace("+", "_") + suffix
    return (f"synthetic_{name}_{number:04d}" for number in count(1))


def _records(
    seed: int, kind: str, part: str, phrasings: Sequence[Phrasing], taken: set[str], ids: Iterator[str]
) -> Iterator[Record]:
    """New records of one kind: its phrasings in turn, no request twice, until no phrasing gives a new one."""
    rng = random.Random(f"{seed}-{kind}-{part}")
    turn = [phrasing for phrasing in phrasings if phrasing.kind == kind]
    rng.shuffle(turn)
    symbols = list(SYMBOLS)
    rng.shuffle(symbols)
    # Training goes through the symbols in turn, so that each of these facts is seen about equally often.
    in_turn = cycle(symbols)
    next_symbol = (lambda: next(in_turn)) if part == "train" else (lambda: rng.choice(symbols))
    waiting = deque(turn)
    while waiting:
        phrasing = waiting.popleft()
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            request, calls = fill(kind, phrasing.text, rng, next_symbol)
            request = wrap(phrasing.text, request, rng)
            if request.lower() not in taken:
                taken.add(request.lower())
                waiting.append(phrasing)
                yield _record(next(ids), phrasing, request, calls)
                break


def _record(record_id: str, phrasing: Phrasing, request: str, calls: Sequence[ToolCall]) -> Record:
    tool_calls = []
    for call in calls:
        rationale, expected = RATIONALE[call.name]
        tool_calls.append(
            {
                "tool": call.name,
                "parameters": dict(call.arguments),
                "rationale": rationale,
                "expected_output": expected,
            }
        )
    return {
        "id": record_id,
        "instruction": request,
        "tool_calls": tool_calls,
        "success_criteria": f"{len(calls)} of {len(calls)} calls as asked for, in this order",
        "template": phrasing.id,
    }


def _check(made: Mapping[str, Sequence[Record]], phrasings: PhrasingChoice) -> NearestSkeletons:
    """Nothing held out may be in training: no phrasing, no skeleton, no request; and nothing too near."""
    everything = [record for part in PART_SIZES for record in made[part]]
    calls = Counter(call["tool"] for record in everything for call in record["tool_calls"])
    assert calls == CALLS_PER_TOOL and {part: len(made[part]) for part in PART_SIZES} == PART_SIZES
    texts = {part: [record["instruction"] for record in records] for part, records in made.items()}
    train_templates = {record["template"] for record in made["train"]}
    train_shapes = {request_skeleton(text) for text in texts["train"]}
    for part in ("validation", "test", "extra_test"):
        shared = train_templates & {record["template"] for record in made[part]}
        shared |= train_shapes & {request_skeleton(text) for text in texts[part]}
        shared |= set(texts["train"]) & set(texts[part])
        if shared:
            raise LauncherError(f"phrasings of {part} stand in training: {', '.join(sorted(shared)[:5])}")
    return measure_similarity(phrasings.test, train_shapes)


def generate_report(seed: int) -> dict[str, Any]:
    """What `launcher data generate` says about a data seed: counts, hash, and how near test is to training."""
    made = generate(seed)
    parts = {part: made.part(part) for part in PART_SIZES} | {"extra_test": list(made.extra_test)}
    nearest = sorted(((*found, text) for text, found in made.similarity.nearest.items()), reverse=True)
    return {
        "seed": seed,
        "sha256": made.sha256,
        "is_committed_data": made.sha256 == SEED_0_SHA256 if seed == 0 else None,
        "examples": {part: len(records) for part, records in parts.items()},
        "calls_per_tool": dict(Counter(call["tool"] for record in made.records for call in record["tool_calls"])),
        "specialists": {name: _count_subset(parts, tools) for name, tools in SPECIALISTS.items()},
        "phrasings": {
            "train": len({record["template"] for record in parts["train"]}),
            "validation": len(made.phrasings.validation),
            "test": len(made.phrasings.test),
            "training phrasings left out as too near": len(made.phrasings.left_out),
        },
        "similarity_of_test_to_training": {
            "median": made.similarity.median(),
            "highest": made.similarity.highest(),
            "share_from_0.8": sum(similarity >= 0.8 for similarity, _, _ in nearest) / len(nearest),
            "limit_of_added_phrasings": made.phrasings.limit,
        },
        "similarity_of_each_test_skeleton": {text: similarity for similarity, _, text in nearest},
        "nearest": [{"test": text, "training": other, "similarity": ratio} for ratio, other, text in nearest],
        "test_words_not_in_training": sorted(_words(parts["test"] + parts["extra_test"]) - _words(parts["train"])),
    }


def write_generated(seed: int, folder: Path) -> None:
    """Write `examples.jsonl` (the 854) and `extra_test.jsonl` in the plan's input format.

    Raises:
        OSError: the folder cannot be made or the disk is full.
    """
    made = generate(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("examples", made.records), ("extra_test", made.extra_test)):
        write_atomically(folder / f"{name}.jsonl", to_json_lines(records))


def _count_subset(parts: Mapping[str, Sequence[Record]], tools: Sequence[str]) -> dict[str, int]:
    """Examples of each part that use only these tools; and all calls of these tools, the plan's figure."""
    counts = {
        part: sum({call["tool"] for call in record["tool_calls"]} <= set(tools) for record in records)
        for part, records in parts.items()
    }
    return {"calls": sum(CALLS_PER_TOOL[tool] for tool in tools), **counts}


def _words(records: Sequence[Record]) -> set[str]:
    return {word for r in records for word in re.findall(r"[a-z']{2,}", request_skeleton(r["instruction"]))}
