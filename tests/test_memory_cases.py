"""Files of cases, and the memory model against what other people measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import memory_error
from launcher.cost.cases import Case, CaseFault, case_label, read_cases, workload_of_case
from launcher.cost.memory import score_case
from launcher.cost.stacks import STACKS
from launcher.errors import BadInput

FILE = Path(__file__).parent / "data" / "cost" / "memory.jsonl"
PUBLISHED = [case.raw for case in read_cases(FILE) if isinstance(case, Case)]
ANSWER_FIELDS = ("peak_gib", "as_published", "note", "group", "source")
QUESTIONS = [{name: value for name, value in raw.items() if name not in ANSWER_FIELDS} for raw in PUBLISHED]
CARDS_GIB = (8, 10, 11, 12, 16, 20, 22, 24, 32, 40, 48, 64, 80, 94, 96, 141)


def write(tmp_path: Path, *lines: str | bytes) -> Path:
    file = tmp_path / "cases.jsonl"
    file.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return file


def test_error_on_published_runs() -> None:
    points = memory_error.score(FILE)
    assert len(points) == 39
    errors = [abs(point.error) for point in points]
    assert statistics.median(errors) <= 0.03
    assert max(errors) <= 0.25
    assert sum(point.high < 1 for point in points) <= 1
    assert statistics.median(point.high for point in points) <= 1.25


def test_bounds_calibrated_on_other_sources_hold() -> None:
    points = memory_error.score(FILE)
    assert len(memory_error.exceeded_when_left_out(points)) <= 0.05 * len(points)


@pytest.mark.parametrize("raw", PUBLISHED, ids=lambda raw: raw["id"])
def test_never_fits_where_the_published_peak_does_not(raw: dict) -> None:
    for gib in (*CARDS_GIB, raw["peak_gib"] * 0.999):
        if gib < raw["peak_gib"]:
            assert score_case({**raw, "gpu_memory_gib": gib})["fits"] != "yes"


def test_scores_need_no_answer_and_stay_the_same_without() -> None:
    assert [score_case(question) for question in QUESTIONS] == [score_case(raw) for raw in PUBLISHED]


def test_a_score_is_in_the_case_s_own_metric() -> None:
    question = QUESTIONS[0]
    alloc, reserved, whole = (
        score_case({**question, "metric": metric})["peak_gib"] for metric in ("alloc", "reserved", "smi")
    )
    assert alloc < reserved < whole
    assert score_case({name: value for name, value in question.items() if name != "metric"})["peak_gib"] == whole


def test_fits_goes_by_what_the_card_reports() -> None:
    question = {"model": "Qwen2.5-Coder-32B", "method": "qlora", "stack": "trl", "seq_len": 1024, "gpu_memory_gib": 24}
    assert score_case({**question, "gpu": "RTX 4090"})["fits"] == "yes"
    assert score_case({**question, "gpu": "A10"})["fits"] == "tight"
    assert score_case(question)["fits"] != "yes"  # of a card that is not named less is sure to be there


@pytest.mark.parametrize(
    ("id", "stack"),
    [
        ("m01", "fsdp-qlora"),
        ("m15", "litgpt"),
        ("m31", "torchtune"),
        ("m35", "torchtune-chunk"),
        ("m39", "hf-2024"),
        ("m44", "peft-benchmark"),
        ("m48", "qwen-2023"),
        ("m70", "axolotl"),
        ("m74", "axolotl-experts"),
        ("m76", "hf-kbit"),
    ],
)
def test_published_flags_name_a_stack(id: str, stack: str) -> None:
    raw = next(raw for raw in QUESTIONS if raw["id"] == id)
    assert workload_of_case(raw).stack == STACKS[stack]


def test_flags_change_a_named_stack() -> None:
    job = workload_of_case({"model": "llama-2-7b", "method": "lora", "seq_len": 512, "stack": "trl", "loss": "hf"})
    assert (job.stack.name, job.stack.loss, job.stack.adapter_bytes) == ("custom", "hf", 4)
    plain = workload_of_case({"model": "llama-2-7b", "method": "lora", "seq_len": 512})
    assert plain.stack == STACKS["hf"]


def test_the_object_s_shape_comes_before_its_name() -> None:
    shape = PUBLISHED[0]["architecture"]
    named = {"model": "Qwen2.5-72B", "method": "lora", "seq_len": 512}
    assert workload_of_case({**named, "architecture": shape}).architecture.hidden_size == 4096
    assert workload_of_case({**named, "architecture": {}}).architecture.hidden_size == 8192


def test_widths_that_follow_may_be_left_out() -> None:
    shape = {k: v for k, v in PUBLISHED[0]["architecture"].items() if k not in ("head_dim", "num_key_value_heads")}
    architecture = workload_of_case({"architecture": shape, "method": "lora", "seq_len": 512}).architecture
    assert (architecture.head_dim, architecture.num_key_value_heads) == (128, 32)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"seq_len": 0}, "seq_len: 0"),
        ({"seq_len": "512"}, "seq_len: '512': a whole number is needed"),
        ({"micro_batch": -1}, "micro_batch: -1"),
        ({"method": "dora"}, "method: 'dora': one of full, lora, qlora is needed"),
        ({"method": None}, "method: missing"),
        ({"sharding": "fsdp4xTP2"}, "sharding: 'fsdp4xTP2': one of none, ddp"),
        ({"gpus": True}, "gpus: true"),
        ({"adapter_bytes": 3}, "adapter_bytes: 3"),
        ({"architecture": {"hidden_size": 4096}}, "architecture.num_hidden_layers: missing"),
        ({"architecture": None, "model": None}, "architecture: missing"),
        ({"architecture": None, "model": "nobody/knows-this"}, "nobody/knows-this"),
        ({"metric": "joules"}, "metric: 'joules': one of alloc"),
        ({"gpu_memory_gib": 0}, "gpu_memory_gib: 0"),
        ({"gpu_memory_gib": 24, "gpu": "GTX 9999"}, "GTX 9999"),
    ],
    ids=str,
)
def test_a_case_that_cannot_be_scored_says_why(change: dict, fault: str) -> None:
    with pytest.raises(BadInput) as raised:
        score_case({**QUESTIONS[0], **change})
    assert any(fault in line for line in raised.value.faults)


def test_bad_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = ['{"id": "a"}', "", "{broken", "[1]", '{"id": NaN}', b"\xff\xfe", "[" * 100_000, '{"id": "b"}']
    found = list(read_cases(write(tmp_path, *lines)))
    assert [item.line for item in found] == [1, 3, 4, 5, 6, 7, 8]
    assert [item.id for item in found if isinstance(item, Case)] == ["a", "b"]
    reasons = [item.reason for item in found if isinstance(item, CaseFault)]
    for reason, words in zip(reasons, ["not JSON", "JSON object", "NaN", "UTF-8", "not JSON"], strict=True):
        assert words in reason


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        list(read_cases(tmp_path / "none.jsonl"))


def test_labels_name_line_and_id() -> None:
    assert case_label(Case(3, "m\n1", {})) == "line 3 (m\\n1)"
    assert case_label(Case(3, None, {})) == "line 3"


@given(st.binary())
def test_any_bytes_are_read_line_by_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("bytes") / "cases.jsonl"
    file.write_bytes(content)
    for item in read_cases(file):
        assert isinstance(item, Case | CaseFault)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists)


@given(st.sampled_from(sorted(QUESTIONS[0])), _JSON)
def test_any_value_scores_or_is_refused(name: str, value: object) -> None:
    try:
        scored = score_case({**QUESTIONS[0], name: value})
    except BadInput as fault:
        assert fault.faults
    else:
        assert json.loads(json.dumps(scored))["low_gib"] <= scored["peak_gib"] <= scored["high_gib"]
