"""A job's tokens: counted as training will see them, padded or packed, remembered, or estimated from characters."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data import characters
from launcher.data.token_count import expected_padded_tokens, histogram, pack_lengths
from launcher.errors import BadInput
from launcher.job import JobSpec, load_job
from launcher.linefile import append_object, read_objects
from launcher.models import model_location
from launcher.run import plan_run
from launcher.tokens import COUNTS_FILE, count_tokens, tokenizer_folder
from tests.conftest import ROOT

HEAVY = {"torch", "transformers", "tokenizers", "datasets", "trl", "ray", "sky", "huggingface_hub", "jinja2"}
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tiny_job() -> JobSpec:
    return load_job(ROOT / "jobs/veran-tools.yaml", "tiny")


@pytest.fixture
def large_job() -> JobSpec:
    return load_job(ROOT / "jobs/veran-tools.yaml")


def with_changes(spec: JobSpec, section: str, **changes: Any) -> JobSpec:
    return spec.model_copy(update={section: getattr(spec, section).model_copy(update=changes)})


# --- padding and packing ---------------------------------------------------------------------------------------------


def simulated(lengths: list[int], micro_batch: int, shuffles: int) -> float:
    rng, total = random.Random(0), 0
    for _ in range(shuffles):
        rng.shuffle(lengths)
        batches = [lengths[i : i + micro_batch] for i in range(0, len(lengths), micro_batch)]
        total += sum(max(batch) * len(batch) for batch in batches)
    return total / shuffles


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 50])
def test_expected_padding_is_that_of_many_shuffles(micro_batch: int) -> None:
    rng = random.Random(1)
    lengths = [int(rng.lognormvariate(5, 0.6)) for _ in range(43)]
    expected = expected_padded_tokens(histogram(lengths), micro_batch)
    assert expected == pytest.approx(simulated(lengths, micro_batch, 4000), rel=0.01)


@given(LENGTHS, st.integers(1, 50))
def test_padding_lies_between_none_and_all_rows_as_long_as_the_longest(lengths: list[int], micro_batch: int) -> None:
    padded = expected_padded_tokens(histogram(lengths), micro_batch)
    assert sum(lengths) <= padded * (1 + 1e-12) and padded <= len(lengths) * max(lengths) * (1 + 1e-12)


@given(LENGTHS)
def test_single_rows_are_not_padded_and_one_batch_of_all_is_padded_to_the_longest(lengths: list[int]) -> None:
    rows = histogram(lengths)
    assert expected_padded_tokens(rows, 1) == pytest.approx(sum(lengths))
    assert expected_padded_tokens(rows, len(lengths)) == pytest.approx(max(lengths) * len(lengths))


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(1, 64))
def test_packing_keeps_every_token_that_fits_and_overfills_no_row(lengths: list[int], capacity: int) -> None:
    rows = pack_lengths(lengths, capacity)
    assert sum(rows) == sum(min(length, capacity) for length in lengths)
    assert all(0 < row <= capacity for row in rows) and len(rows) <= len(lengths)
    assert sum(2 * row <= capacity for row in rows) <= 1, "two half-empty rows would have been one"


@pytest.mark.slow
def test_packing_is_that_of_the_trainer() -> None:
    from datasets import Dataset
    from trl import pack_dataset

    rng = random.Random(2)
    lengths = [int(rng.lognormvariate(4, 0.7)) + 1 for _ in range(1500)]
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[0] * length for length in lengths]}), 256, "bfd")
    assert sorted(map(len, packed["input_ids"])) == sorted(pack_lengths(lengths, 256))


# --- counted ---------------------------------------------------------------------------------------------------------


def counted(spec: JobSpec, home: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int = 8) -> Any:
    """A count in a home that the tests of this file share: loading the tokenizer takes seconds."""
    monkeypatch.setenv("LAUNCHER_HOME", str(home))
    return count_tokens(spec, micro_batch)


@pytest.mark.slow
def test_the_count_equals_the_rows_of_the_real_trainer(
    tiny_job: JobSpec, module_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from launcher.data.prepare import prepare_job
    from launcher.rundir import RunFolder
    from launcher.schedule import plan_schedule
    from launcher.train.build import build_trainer
    from launcher.train.model import load_model, load_tokenizer

    count = counted(tiny_job, module_home, monkeypatch)
    data = prepare_job(tiny_job)
    schedule = plan_schedule(len(data.train), tiny_job.train, tiny_job.early_stopping)
    tokenizer, model = load_tokenizer(tiny_job), load_model(tiny_job)
    trainer = build_trainer(tiny_job, data, tokenizer, model, schedule, RunFolder(tmp_path))
    rows = trainer.train_dataset
    lengths = [len(tokens) for tokens in rows["input_ids"]]
    stored = json.loads((module_home / COUNTS_FILE).read_text(encoding="utf-8").splitlines()[-1])
    assert stored["lengths"] == [list(pair) for pair in histogram(lengths)], "row by row"
    assert (count.examples, count.tokens, count.longest) == (len(lengths), sum(lengths), max(lengths))
    assert count.trained_tokens == sum(label != -100 for labels in rows["labels"] for label in labels)
    assert count.prompt_tokens + count.answer_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert count.is_counted and count.source == "counted with builtin:tiny-base's tokenizer"
    assert count.evaluation_examples == {"validation": 33, "test": 33, "extra_test": 300}

    batches = [batch["input_ids"].numel() for _ in range(20) for batch in trainer.get_train_dataloader()]
    in_batches = count_tokens(tiny_job, tiny_job.train.batch)  # type: ignore[arg-type]
    assert sum(batches) / 20 == pytest.approx(in_batches.padded_tokens, rel=0.02)


@pytest.mark.slow
def test_packed_rows_are_counted_as_packed(
    tiny_job: JobSpec, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = counted(tiny_job, module_home, monkeypatch)
    packed = counted(with_changes(tiny_job, "train", packing=True), module_home, monkeypatch)
    assert packed.tokens == plain.tokens == packed.padded_tokens < plain.padded_tokens
    assert packed.examples < plain.examples and plain.longest < packed.longest <= tiny_job.train.max_length
    assert packed.answer_tokens == plain.answer_tokens, "a mean over examples, not over packed rows"


@pytest.mark.slow
def test_a_remembered_count_is_used_and_made_anew_where_the_rows_change(
    tiny_job: JobSpec, module_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = module_home / COUNTS_FILE

    def lines() -> int:
        return len(read_objects(file)[0])

    first = counted(tiny_job, module_home, monkeypatch, 4)
    before = lines()
    assert counted(tiny_job, module_home, monkeypatch, 16).padded_tokens > first.padded_tokens
    counted(with_changes(tiny_job, "train", learning_rate=1e-5), module_home, monkeypatch)
    assert lines() == before, "another micro-batch or learning rate has the same rows"
    shorter = counted(with_changes(tiny_job, "train", max_length=100), module_home, monkeypatch)
    assert lines() == before + 1 and shorter.longest == 100


@pytest.mark.slow
def test_a_second_plan_loads_no_tokenizer(module_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(load_job(ROOT / "jobs/veran-tools.yaml", "tiny"), module_home, monkeypatch)
    assert loaded_by_counting("tiny", module_home) == []


def test_an_estimate_loads_nothing_heavy(own_home: Path) -> None:
    assert loaded_by_counting(None, own_home) == []


def loaded_by_counting(preset: str | None, home: Path) -> list[str]:
    program = (
        "import sys; from pathlib import Path; from launcher.job import load_job; "
        "from launcher.tokens import count_tokens; "
        f"count_tokens(load_job(Path('jobs/veran-tools.yaml'), {preset!r}), 4); "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    environment = {"LAUNCHER_HOME": str(home), "HF_HOME": str(home / "hf"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout.replace("'", '"')))


def test_rows_that_keep_no_answer_are_refused(large_job: JobSpec) -> None:
    with pytest.raises(BadInput, match=r"train\.max_length: 16: no example keeps an answer"):
        count_tokens(with_changes(large_job, "train", max_length=16), 1)


# --- where a tokenizer lies ------------------------------------------------------------------------------------------


def test_a_tokenizer_in_the_hugging_face_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    assert tokenizer_folder("Some/Model") is None
    repository = tmp_path / "hub/models--Some--Model"
    snapshot = repository / "snapshots/0123abc"
    shutil.copytree(model_location("builtin:tiny-base"), snapshot)
    assert tokenizer_folder("Some/Model") is None, "no revision is named yet"
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abc", encoding="utf-8")
    assert tokenizer_folder("Some/Model") == snapshot == tokenizer_folder("Some/Model", "0123abc")
    assert tokenizer_folder("Some/Model", "other") is None
    (snapshot / "tokenizer.json").unlink()
    assert tokenizer_folder("Some/Model") is None, "half a download is no tokenizer"


# --- estimated -------------------------------------------------------------------------------------------------------


def test_an_estimate_says_so_and_has_an_interval(large_job: JobSpec) -> None:
    count = count_tokens(large_job, 4)
    assert not count.is_counted and "characters per token (measured for Qwen 2.5 and 3)" in count.source
    assert count.spread.quantile(0.1) < 1 < count.spread.quantile(0.9)
    assert count.tokens < count.padded_tokens and count.longest <= large_job.train.max_length
    other = count_tokens(with_changes(large_job, "model", id="Nobody/Knows-7B"), 4)
    assert other.spread.below > count.spread.below and "all known tokenizers" in other.source


def test_tools_in_the_prompt_are_estimated_too(large_job: JobSpec) -> None:
    bare = with_changes(
        large_job, "data", system_prompt=large_job.data.system_prompt.model_copy(update={"tools": False})
    )
    assert count_tokens(large_job, 4).tokens > 3 * count_tokens(bare, 4).tokens


# Counted with the tokenizer of Qwen3, whose merges are Qwen2.5's, in Qwen2.5's chat template; docs/calibration.md.
EXACT = {
    ("veran-tools", True): 265_084,
    ("veran-tools", False): 36_988,
    ("farore-debug", True): 186_100,
    ("farore-debug", False): 35_751,
    ("nayru-editor", True): 190_930,
    ("nayru-editor", False): 32_086,
}


@pytest.mark.parametrize(("job", "tools"), EXACT)
def test_estimates_enclose_the_exact_count(job: str, tools: bool) -> None:
    spec = load_job(ROOT / f"jobs/{job}.yaml")
    spec = with_changes(spec, "data", system_prompt=spec.data.system_prompt.model_copy(update={"tools": tools}))
    count = count_tokens(spec, 4)
    low, high = (count.tokens * count.spread.quantile(share) for share in (0.1, 0.9))
    assert low <= EXACT[job, tools] <= high


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen 2.5 and 3"),
        ("Qwen/Qwen3-30B-A3B", "Qwen 2.5 and 3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama 3"),
        ("meta-llama/Llama-2-7b-chat-hf", "Llama 2"),
        ("codellama/CodeLlama-34b-Instruct-hf", "Llama 2"),
        ("google/gemma-3-27b-it", "Gemma 3"),
        ("openai/gpt-oss-20b", "gpt-oss"),
        ("mistralai/Mistral-7B-Instruct-v0.3", characters.ANY_FAMILY),
    ],
)
def test_a_model_has_the_row_of_its_tokenizer(model: str, family: str) -> None:
    assert characters.family_of(model) == family


def test_every_ratio_is_in_order_and_the_row_for_any_model_spans_all() -> None:
    rows = {name: characters.ratios(name) for name in (*characters.TABLE, characters.ANY_FAMILY)}
    for table in rows.values():
        assert all(ratio.low <= ratio.mid <= ratio.high for ratio in table.values())
    for kind, ratio in rows[characters.ANY_FAMILY].items():
        assert ratio.low == min(table[kind].low for table in rows.values())
        assert ratio.high == max(table[kind].high for table in rows.values())


# --- the file of counts ----------------------------------------------------------------------------------------------


def test_a_line_that_a_crash_cut_off_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_object(file, {"number": 1})
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"number": 2')
    append_object(file, {"number": 3})
    assert read_objects(file) == ([{"number": 1}, {"number": 3}], 1)
    assert read_objects(tmp_path / "missing.jsonl") == ([], 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=5))
def test_whatever_stands_in_the_file_reading_it_does_not_fail(tmp_path_factory: Any, lines: list[str]) -> None:
    file: Path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    append_object(file, {"good": True})
    assert read_objects(file)[0][-1] == {"good": True}


@pytest.mark.slow
def test_a_packed_job_is_scheduled_on_its_packed_rows(tiny_job: JobSpec) -> None:
    packed = with_changes(
        tiny_job, "train", packing=True, max_steps=None, epochs=3.0, eval_steps="auto", save_steps="auto"
    )
    loose = with_changes(packed, "train", packing=False)
    steps = [plan_run(spec, None).total_steps for spec in (packed, loose)]
    assert 0 < steps[0] < steps[1] / 1.5, "several examples stand in a row"
