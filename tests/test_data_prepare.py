"""From a job's data section to its examples, and through the run folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from launcher.data.generator import SPECIALISTS, generate, write_generated
from launcher.data.prepare import BUILTIN_SHARES, prepare, read_prepared, write_prepared
from launcher.errors import BadInput
from launcher.rundir import RunFolder, RunRecord, RunState, now_iso

BUILTIN = "builtin:specialists"
PARTS = ("train", "validation", "test", "extra_test")


def prepared(tools=SPECIALISTS["VERAN-tools"], source=BUILTIN, shares=BUILTIN_SHARES, seed=0, extra=300):
    return prepare(str(source), tools, shares, seed, extra)


def sizes(data):
    return [len(getattr(data, part)) for part in PARTS]


@pytest.fixture
def folder(tmp_path):
    record = RunRecord(id="r", job="j", group="g", state=RunState.PLANNED, created_at=now_iso())
    return RunFolder.create(tmp_path / "runs", "r", record)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("VERAN-tools", [264, 33, 33, 300]),
        ("FARORE-debug", [251, 32, 31, 300]),
        ("NAYRU-editor", [217, 27, 27, 300]),
    ],
)
def test_each_specialist_gets_its_subset(name, expected):
    data = prepared(SPECIALISTS[name])
    assert sizes(data) == expected
    assert set(data.tool_set.names) == set(SPECIALISTS[name])
    used = {call.name for part in PARTS for example in getattr(data, part) for call in example.calls}
    assert used == set(SPECIALISTS[name])
    templates = {part: {e.template for e in getattr(data, part)} for part in PARTS}
    assert not templates["train"] & (templates["validation"] | templates["test"] | templates["extra_test"])
    assert data.manifest["parts"]["extra_test"]["examples"] == 300


def test_no_tools_named_means_all():
    assert sizes(prepared(None, extra=0)) == [683, 86, 85, 0]


def test_the_part_an_example_is_in_does_not_depend_on_the_job():
    made = generate(0)
    for name in SPECIALISTS:
        data = prepared(SPECIALISTS[name])
        for part in PARTS[:3]:
            assert all(made.part_of[example.id] == part for example in getattr(data, part))


def test_prepared_data_survives_the_run_folder(folder):
    data = prepared()
    write_prepared(data, folder)
    back = read_prepared(folder)
    assert all(getattr(back, part) == getattr(data, part) for part in PARTS)
    assert back.tool_set == data.tool_set
    assert back.manifest == json.loads(json.dumps(data.manifest))


def test_changed_examples_in_a_run_folder_are_refused(folder):
    write_prepared(prepared(), folder)
    file = folder.data_dir / "test.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(BadInput, match=r"not those of split\.json"):
        read_prepared(folder)


@pytest.mark.parametrize("gone", ["train.jsonl", "tools.json"])
def test_a_run_folder_without_its_data_is_refused(folder, gone):
    write_prepared(prepared(), folder)
    (folder.data_dir / gone).unlink()
    with pytest.raises(BadInput, match=gone):
        read_prepared(folder)


def test_data_of_a_users_own(tmp_path):
    write_generated(0, tmp_path / "mine")
    (tmp_path / "mine" / "extra_test.jsonl").unlink()
    data = prepared(source=tmp_path / "mine", shares={"train": 0.6, "validation": 0.2, "test": 0.2})
    assert sum(sizes(data)) == 330 and not data.extra_test
    assert all(abs(got - 330 * share) < 30 for got, share in zip(sizes(data), (0.6, 0.2, 0.2), strict=False))
    assert data.manifest["source"] == str(tmp_path / "mine")


def test_unknown_tools_are_named_all_at_once():
    with pytest.raises(BadInput) as caught:
        prepared(("mesen2.rum", "z3ed_cli.exract", "mesen2.run"))
    assert caught.value.exit_code == 2
    assert [fault.split("; ")[1] for fault in caught.value.faults] == [
        "did you mean 'mesen2.run'?", "did you mean 'z3ed_cli.extract'?",
    ]  # fmt: skip


def test_a_subset_without_examples_says_what_there_is(tmp_path):
    file = tmp_path / "data.jsonl"
    call = {"tool": "mesen2.run", "parameters": {"frames": 1}}
    rows = [{"id": f"x{i}", "instruction": f"{'very ' * i}slow", "tool_calls": [call]} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        BadInput, match=r"no example of .*data\.jsonl uses only mesen2\.screenshot.*mesen2\.run \(20 calls\)"
    ):
        prepared(("mesen2.screenshot",), source=file)
    assert sizes(prepared(("mesen2.run",), source=file)) == [16, 2, 2, 0]


def test_a_part_without_examples_is_refused(tmp_path):
    file = tmp_path / "data.jsonl"
    call = {"tool": "mesen2.run", "parameters": {"frames": 1}}
    rows = [{"id": f"x{i}", "instruction": f"Run {i} frames", "tool_calls": [call]} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput) as caught:
        prepared(("mesen2.run",), source=file)
    assert "no example for validation (train 20, validation 0, test 0)" in str(caught.value)
    with pytest.raises(BadInput, match="no example for validation"):
        prepared(("yaze_debugger.assemble",))


def test_other_shares_than_the_plans_are_refused_for_the_built_in_data():
    with pytest.raises(BadInput, match=r"data\.splits: builtin:specialists comes split into 683/86/85"):
        prepared(shares={"train": 0.7, "validation": 0.2, "test": 0.1})


def test_preparing_loads_nothing_heavy():
    code = "import sys, launcher.data.prepare; print(sorted({m.split('.')[0] for m in sys.modules}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "transformers", "datasets", "jsonschema", "pydantic", "numpy"):
        assert repr(heavy) not in shown
