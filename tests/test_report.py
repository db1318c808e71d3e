"""The report as a reader meets it: right figures in both forms, nothing loaded from elsewhere, nothing unescaped."""

import json
import re
from html.parser import HTMLParser

import pytest

from launcher.errors import BadInput, LauncherError
from launcher.report import write_report
from launcher.report.facts import fact_table
from launcher.report.failures import summarize_failures
from launcher.report.formats import code, interval, markdown, seconds, signed, usd
from launcher.report.view import read_run
from launcher.rundir import RunFolder, RunState
from tests.synthetic_runs import SPEC, record, write_evaluation, write_metrics, write_run

VOID = {"meta", "br", "img", "hr", "input", "link", "path", "use"}


class Page(HTMLParser):
    """Reads a page: its text, tags and ids; fails on a tag that is closed out of order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.tags, self.attributes, self.parts = [], [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.parts))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.parts.append(data)


def pages(path):
    return Page(path.read_text(encoding="utf-8")), path.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run and its two files; read only."""
    folder = write_run(tmp_path_factory.mktemp("runs"), skill=0.75)
    return folder, *pages(write_report([folder], None))


def test_a_finished_run_has_every_section_and_the_figures_of_its_evaluation(finished):
    folder, page, summary = finished
    scores = json.loads(folder.evaluation_file.read_text())["tuned"]["extra_test"]
    exact = scores["metrics"]["exact_match"]
    for text in (page.text, summary):
        assert f"{exact['value']:.2f}" in text
        assert f"{exact['low']:.2f} to {exact['high']:.2f}" in text
        assert "288 prompts of 16 phrasings" in text
        assert "$0.0026 of $0.50" in text
        assert "all steps done" in text
        assert "3 min 07 s" in text
        assert "400 of 400, kept: 360" in text
        assert "mesen2.read_memory" in text.replace("\\", "")
        assert "torch 2.13.0" in text
        assert "1,780" in text
    assert {"results", "targets", "training", "tools", "failures", "data", "environment"} <= set(page.ids)
    assert page.tags.count("svg") == 5
    assert folder.report_file.is_file()
    assert folder.summary_file.is_file()


def test_the_page_asks_for_nothing_and_names_no_id_twice(finished):
    folder, page, _ = finished
    html = folder.report_file.read_text(encoding="utf-8")
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    loaded = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert all(value.startswith("#") for value in loaded)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for value in loaded} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(page.ids)


def test_every_chart_says_in_words_what_it_shows(finished):
    _, page, _ = finished
    words = [value for name, value in page.attributes if name == "aria-label"]
    assert any("Loss against steps" in w and "step 400" in w for w in words)
    assert any(w.startswith("Exact match. veran-tools, extra test set: base 0.00, interval") for w in words)


def test_charts_use_the_colours_of_the_page(finished):
    folder, _, _ = finished
    charts = re.findall(r"<svg.*?</svg>", folder.report_file.read_text(encoding="utf-8"), re.DOTALL)
    assert all("var(--series-1)" in chart for chart in charts)
    assert not [colour for chart in charts for colour in re.findall(r"(?:fill|stroke): (#\w+)", chart)]


def test_what_a_model_writes_is_shown_not_run(tmp_path):
    folder = write_run(tmp_path)
    path = folder.predictions_dir / "tuned-extra_test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    evil = "<script>alert(1)</script> <tool_call> | `x` \ud800"
    rows[0] |= {
        "instruction": evil,
        "text": evil,
        "actual": None,
        "exact_match": False,
        "parse_error": evil,
        "template": evil,
    }
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.update_record(stop_reason=evil)

    page, summary = pages(write_report([folder], None))

    assert page.tags.count("script") == 1
    assert "<script>alert(1)</script> <tool_call>" in page.text
    assert "<script>" not in re.sub(r"`+[^`\n]*`+", "", summary).replace("\\<", "")
    table = [line for line in summary.splitlines() if "alert" in line and line.startswith("| ") and " of " in line]
    assert table
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in table)


def test_failures_stand_by_phrasing_most_frequent_first(finished):
    folder, page, summary = finished
    rows = read_run(folder).predictions[("tuned", "extra_test")]
    failures = summarize_failures(rows)
    wrong = [group.wrong for group in failures.templates]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == failures.wrong == sum(not row["exact_match"] for row in rows)
    assert f"{failures.wrong} of 288 answers are wrong" in page.text
    assert f"{failures.wrong} of 288 answers are wrong" in summary
    assert failures.templates[0].template in page.text
    assert "mark" in page.tags


def prediction(expected, actual, error=None):
    return {
        "id": "1", "template": "t", "instruction": "do", "text": "x", "exact_match": False, "tool_accuracy": False,
        "expected": expected, "actual": actual, "parse_error": error,
    }  # fmt: skip


RUN, READ = ({"name": "run", "arguments": {"frames": 60}}, {"name": "read", "arguments": {"at": "0x1", "length": 16}})


@pytest.mark.parametrize(
    ("expected", "actual", "kind", "detail"),
    [
        ([RUN], None, "not a call", "empty answer"),
        ([RUN], [RUN, RUN], "wrong number of calls", "2 instead of 1"),
        ([RUN, READ], [RUN, RUN], "wrong tool", "run instead of read"),
        ([READ], [{"name": "read", "arguments": {"at": "0x2", "length": 8}}], "wrong value", "at, length"),
        ([READ], [{"name": "read", "arguments": {"at": "0x1"}}], "missing argument", "length"),
        ([RUN], [{"name": "run", "arguments": {"frames": 60, "fast": True}}], "surplus argument", "fast"),
    ],
)
def test_a_failure_says_what_is_wrong_with_it(expected, actual, kind, detail):
    failure = summarize_failures([prediction(expected, actual, "empty answer")]).templates[0].examples[0]
    assert (failure.kind, failure.detail) == (kind, detail)


def test_only_what_differs_is_marked():
    wrong = [{"name": "read", "arguments": {"length": 16.0, "at": "0x2"}}]
    failure = summarize_failures([prediction([READ], wrong)]).templates[0].examples[0]
    [call] = failure.actual
    assert [(key.text, value.text, value.differs) for key, value in call.arguments] == [
        ("length", "16.0", False),
        ("at", '"0x2"', True),
    ]
    assert not call.name.differs


def test_runs_side_by_side_and_each_alone(tmp_path):
    folders = [write_run(tmp_path, job, skill) for job, skill in (("veran-tools", 0.6), ("nayru-editor", 0.9))]
    path = write_report([*folders, folders[0]], None)
    assert path == tmp_path / "report-20260108-120000-3fa2.html"
    page, summary = pages(path)
    for folder in folders:
        value = json.loads(folder.evaluation_file.read_text())["tuned"]["extra_test"]["metrics"]["exact_match"]["value"]
        assert f"0.00 → {value:.2f}" in page.text
        assert f"{value:.2f}" in summary
        assert folder.report_file.is_file()
    assert page.tags.count("article") == 2
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("name", ["side.html", "new/folder/side.html", "."])
def test_the_report_goes_where_it_is_asked_to(tmp_path, name):
    folder = write_run(tmp_path / "runs")
    out = tmp_path / name
    path = write_report([folder], out)
    assert path == (tmp_path / "report.html" if name == "." else out)
    assert path.is_file()
    assert path.with_suffix(".md").is_file()
    assert not folder.report_file.exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    folder = write_run(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(LauncherError, match="cannot be written"):
        write_report([folder], tmp_path / "file" / "report.html")
    with pytest.raises(BadInput, match="no runs given"):
        write_report([], None)


def test_a_run_that_failed_at_loading_says_why(tmp_path):
    changes = {
        "state": RunState.FAILED,
        "error": "model.id: no such <model>",
        "usd": None,
        "step": 0,
        "best_step": None,
    }
    folder = RunFolder.create(tmp_path, "failed-1", record("failed-1", "veran-tools", **changes))
    folder.log_file.write_text("\n".join(f"line {i}" for i in range(100)))
    page, summary = pages(write_report([folder], None))
    for text in (page.text, summary.replace("\\", "")):
        assert "model.id: no such <model>" in text
        assert "line 99" in text
        assert "line 10 " not in text
        assert "Not evaluated." in text
    assert "svg" not in page.tags


def test_a_run_stopped_before_its_evaluation_shows_the_base_and_the_curves(tmp_path):
    reason = "deadline: 6 h are over"
    folder = RunFolder.create(
        tmp_path, "early-1", record("early-1", "veran-tools", state=RunState.STOPPED, stop_reason=reason)
    )
    folder.write_json(folder.spec_file, SPEC)
    write_metrics(folder, 0.5, steps=120)
    write_evaluation(folder, 0.5, models=("base",))
    page, summary = pages(write_report([folder], None))
    for text in (page.text, summary):
        assert reason in text
        assert "the tuned model was not evaluated" in text
    assert "not measured" in page.text
    assert page.tags.count("svg") == 5
    assert "failures" not in page.ids


def test_a_run_under_way_has_a_report(tmp_path):
    folder = RunFolder.create(
        tmp_path, "now-1", record("now-1", "veran-tools", state=RunState.RUNNING, stop_reason=None, usd=None)
    )
    folder.write_json(folder.progress_file, {"phase": "training", "usd": 0.0123, "elapsed_s": 30})
    page, _ = pages(write_report([folder], None))
    assert "still running" in page.text
    assert "$0.0123" in page.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("spec.json", "[1, 2]"),
        ("evaluation.json", "{"),
        ("evaluation.json", '{"tuned": {"extra_test": 3}, "base": null}'),
        ("metrics.jsonl", 'null\n3\n{"kind": "train", "st'),
        ("split.json", "\x00\xff"),
        ("progress.json", "{"),
        ("predictions/tuned-extra_test.jsonl", "[]\n{}\n{"),
    ],
)
def test_a_broken_file_costs_its_own_part_only(tmp_path, file, content):
    folder = write_run(tmp_path)
    (folder.path / file).write_text(content, encoding="latin-1")
    page, summary = pages(write_report([folder], None))
    assert "veran-tools" in page.text
    assert "AMD EPYC" in page.text
    assert "AMD EPYC" in summary


def test_a_diverged_run_with_nan_is_drawn_and_says_so(tmp_path):
    folder = write_run(tmp_path, state=RunState.STOPPED, stop_reason="loss is not finite at step 50")
    folder.append_metrics({"kind": "train", "step": 410, "loss": float("nan"), "elapsed_s": 188.0, "usd": 0.0026})
    page, _ = pages(write_report([folder], None))
    assert "loss is not finite at step 50" in page.text
    assert "nan" not in page.text


def test_steps_done_again_after_a_resume_are_drawn_once(tmp_path):
    folder = RunFolder.create(tmp_path, "again-1", record("again-1", "veran-tools"))
    for step, loss in ((10, 3.0), (20, 2.0), (30, 9.0)):
        folder.append_metrics({"kind": "train", "step": step, "loss": loss, "elapsed_s": step, "usd": step / 1000})
    folder.append_metrics({"kind": "resume", "step": 20, "elapsed_s": 40, "usd": 0.04})
    folder.append_metrics({"kind": "train", "step": 30, "loss": 1.5, "elapsed_s": 50, "usd": 0.05})
    curve = read_run(folder).curve("train")
    assert [(row["step"], row["loss"]) for row in curve] == [(10, 3.0), (20, 2.0), (30, 1.5)]


def test_without_a_price_nothing_is_drawn_against_spend(tmp_path):
    folder = RunFolder.create(tmp_path, "free-1", record("free-1", "veran-tools", usd=None, usd_per_hour=None))
    for step in (10, 20):
        folder.append_metrics({"kind": "train", "step": step, "loss": 3.0 / step, "elapsed_s": step, "usd": 0.0})
    page, _ = pages(write_report([folder], None))
    assert page.tags.count("svg") == 1
    assert "against spend" not in page.text


def test_any_json_becomes_facts_and_a_table():
    table = fact_table(
        {
            "seed": 0,
            "parts": {"train": {"examples": 2, "templates": ["a", "b"]}, "test": {"examples": 1}},
            "hash": "ab" * 32,
        }
    )
    assert table.columns == ("examples", "templates")
    assert table.rows == (("train", ("2", "2")), ("test", ("1", "–")))
    assert table.facts == (("seed", "0"), ("hash", "abababababab…"))
    assert fact_table({}).rows == ()
    assert fact_table({"faults": [], "tools": ["a", "b"], "argv": ["x" * 300]}).facts == (
        ("faults", "none"),
        ("tools", "a, b"),
        ("argv", "1 in all"),
    )
    assert fact_table({"train": {"n": 1}, "test": {"n": 2}}).rows == (("train", ("1",)), ("test", ("2",)))


def test_values_read_well():
    assert [usd(v) for v in (None, 0.0, 12.4, 0.5, 0.0213, 0.0000123)] == [
        "–",
        "$0.00",
        "$12.40",
        "$0.50",
        "$0.0213",
        "$1.2e-05",
    ]
    assert [seconds(v) for v in (None, 0.0043, 12.34, 245, 7620)] == [
        "–",
        "4.3 ms",
        "12.3 s",
        "4 min 05 s",
        "2 h 07 min",
    ]
    assert (signed(0.5), signed(-0.25), signed(None)) == ("+0.50", "−0.25", "–")
    assert interval({"low": None, "high": None}) == "n/a"
    assert markdown("a|b *c*\n<d>") == r"a\|b \*c\* \<d\>"
    assert code("a`b") == "`` a`b ``"
