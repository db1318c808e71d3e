"""The page of a plan as a reader meets it: the answer first, pictures that say what they show, nothing loaded."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.errors import BadInput
from launcher.report.formats import estimated_hours, estimated_usd
from launcher.report.plan_figures import long_name, memory, pareto_front, short_name
from launcher.report.plan_page import write_plan_page
from tests.test_report import Page

SAMPLE = json.loads((Path(__file__).parent / "data" / "cost" / "plan.json").read_text(encoding="utf-8"))
LIMITS = {"max_usd": 15.0, "deadline_hours": 6.0}
WIDTHS_DRAWN = 2  # every chart stands twice: for wide and for narrow pages
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def result(**changes):
    return {**copy.deepcopy(SAMPLE), **changes}


def small_result(**changes):
    """One plan and nothing beside it: quick to draw."""
    return result(plans=copy.deepcopy(SAMPLE["plans"][:1]), alternatives=[], alternatives_why_not=[], **changes)


def page_of(content, tmp_path):
    file = write_plan_page(content, tmp_path / "plan.html")
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sample_file(tmp_path_factory):
    return write_plan_page(result(limits=LIMITS), tmp_path_factory.mktemp("page") / "plan.html")


@pytest.fixture(scope="module")
def sample_page(sample_file):
    return Page(sample_file.read_text(encoding="utf-8"))


def words(page):
    return [value for name, value in page.attributes if name == "aria-label"]


def test_the_answer_stands_first(sample_page):
    best = SAMPLE["plans"][0]
    first = sample_page.text.index("Cheapest of those that fit")
    assert first < sample_page.text.index("Cost against time", first)
    sentence = sample_page.text[first:].split(" Cost against time")[0]
    assert long_name(best) in sentence
    assert estimated_usd(best["usd"]["p50"]) in sentence
    assert f"{estimated_usd(best['usd']['p10'])} to {estimated_usd(best['usd']['p90'])}" in sentence
    assert f"at most {estimated_usd(best['worst_case_usd'])}" in sentence
    for job in SAMPLE["tokens"]:
        assert job in sample_page.text


def test_every_plan_reason_and_source_is_on_the_page(sample_page):
    for plan in [*SAMPLE["plans"], *SAMPLE["alternatives"]]:
        assert long_name(plan) in sample_page.text
        assert plan["why"] in sample_page.text
        assert f"{plan['peak_high_gib']:.1f} of {plan['usable_gib']:.1f}" in sample_page.text
    for line in [*SAMPLE["why_not"], *SAMPLE["alternatives_why_not"], *SAMPLE["tokens"].values()]:
        assert line in sample_page.text
    for refusal in SAMPLE["refused"]:
        assert refusal["reason"] in sample_page.text
    for source in SAMPLE["prices"]:
        assert source["where"] in sample_page.text
    for phase in SAMPLE["plans"][0]["phase_hours"]:
        assert phase.capitalize() in sample_page.text


def test_plans_after_the_first_twenty_are_folded_away_with_their_ranks(sample_page):
    assert len(SAMPLE["plans"]) > 20
    assert f"The other {len(SAMPLE['plans']) - 20} plans" in sample_page.text
    assert f"{len(SAMPLE['plans'])}. {long_name(SAMPLE['plans'][-1])}" in sample_page.text


def test_the_page_loads_nothing_and_runs_nothing(sample_file, sample_page):
    html = sample_file.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(sample_page.tags)
    loaded = [value for name, value in sample_page.attributes if name in ("src", "href", "xlink:href", "data")]
    assert all(value.startswith("#") for value in loaded)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(sample_page.ids) == len(set(sample_page.ids))
    assert {value[1:] for value in loaded} <= set(sample_page.ids)


def test_charts_use_the_colours_of_the_page(sample_file):
    charts = re.findall(r"<svg.*?</svg>", sample_file.read_text(encoding="utf-8"), re.DOTALL)
    assert len(charts) == 4 * WIDTHS_DRAWN
    assert not [colour for chart in charts for colour in re.findall(r"(?:fill|stroke): (#\w+)", chart)]
    assert not [chart for chart in charts if "#0102" in chart]


def test_every_chart_says_in_words_what_it_shows(sample_page):
    cost, first_memory, rows, other_memory = [w for w in words(sample_page) if w != "Sections"]
    fastest, cheapest = pareto_front(SAMPLE["plans"])[0], SAMPLE["plans"][0]
    assert cost.startswith("Cost against time of")
    assert cost.index(short_name(fastest)) < cost.index(
        f"{short_name(cheapest)}: {estimated_usd(cheapest['usd']['p50'])}"
    )
    assert f"up to {max(job['peak_high_gib'] for job in cheapest['jobs']):.1f}" in first_memory
    assert "Tight: " in first_memory
    assert f"1. {long_name(cheapest)}: {estimated_usd(cheapest['usd']['p50'])}" in rows
    assert "RTX4090 24 GB" in other_memory.split("Fits: ")[1]


def test_limits_are_drawn_where_there_are_any(sample_file, tmp_path):
    assert "cap $15" in sample_file.read_text(encoding="utf-8")
    assert "deadline 6 h" in sample_file.read_text(encoding="utf-8")
    unlimited = write_plan_page(small_result(), tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "cap $" not in unlimited
    assert "deadline" not in unlimited


def test_the_front_is_what_nothing_beats():
    front = pareto_front(SAMPLE["plans"])
    assert front
    for plan in SAMPLE["plans"]:
        beaten = [
            other
            for other in SAMPLE["plans"]
            if other is not plan
            and other["usd"]["p50"] <= plan["usd"]["p50"]
            and other["hours"]["p50"] <= plan["hours"]["p50"]
        ]
        assert (plan in front) != bool(beaten)


def test_a_card_says_on_how_many_gpus_it_fits():
    fit = SAMPLE["plans"][0]["jobs"][0]
    sharded = next(plan for plan in SAMPLE["plans"] if plan["jobs"][0]["gpus"] > 1)
    refusal = {
        "gpu": "RTX3090", "gpu_memory_gib": 24.0, "gpus": 1, "provider": "vast", "rule": "memory", "reason": "too big",
        "needed": 70.0,
    }  # fmt: skip
    svg = memory([fit], [sharded], [refusal, {**refusal, "gpu": "V100", "gpu_memory_gib": 16.0, "rule": "cap"}]).wide
    assert f"fits on {sharded['jobs'][0]['gpus']} GPUs" in svg
    assert "no on 1 GPU" in svg
    assert "V100" not in svg


def test_when_nothing_fits_the_page_says_why_and_what_would(tmp_path):
    suggestion = {"change": "train.max_length: 1024", "plan": SAMPLE["alternatives"][0]}
    page = page_of(result(plans=[], alternatives=[], suggestions=[suggestion]), tmp_path)
    assert "Nothing fits within the limits. The smallest change that would do: train.max_length: 1024." in page.text
    assert f"Then: {long_name(suggestion['plan'])}" in page.text
    assert SAMPLE["why_not"][0] in page.text
    assert "svg" not in page.tags


def test_when_nothing_fits_the_memory_is_still_drawn_where_it_is_told(tmp_path):
    jobs = SAMPLE["plans"][0]["jobs"]
    page = page_of(result(plans=[], alternatives=[], suggestions=[], jobs=jobs), tmp_path)
    assert "no single change that was tried makes it fit" in page.text
    assert page.tags.count("svg") == WIDTHS_DRAWN
    assert any("Fits: no card." in text for text in words(page))
    over_cap = [{**refusal, "rule": "cap"} for refusal in SAMPLE["refused"]]
    assert "svg" not in page_of(result(plans=[], alternatives=[], jobs=jobs, refused=over_cap), tmp_path).tags


def test_one_plan_alone_makes_a_page(tmp_path):
    page = page_of(small_result(refused=[], why_not=[]), tmp_path)
    assert page.tags.count("svg") == 3 * WIDTHS_DRAWN
    assert "Cost against time of 1 plan." in words(page)[1]


def test_what_others_wrote_is_shown_not_run(tmp_path):
    evil = "<script>alert(1)</script> & $x$ $y$"
    content = small_result(why_not=[evil], tokens={evil: evil})
    content["plans"][0]["region"] = evil
    content["plans"][0]["jobs"][0]["job"] = evil
    page = page_of(content, tmp_path)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 4 + WIDTHS_DRAWN


def test_prices_without_a_date_are_not_shown_as_new(tmp_path):
    dates = [
        {"priced_at": None, "age_hours": None, "offers": 3},
        {"priced_at": "2026-09-01", "age_hours": 1200, "offers": 5},
    ]
    source = {"provider": "vast", "source": "snapshot", "where": "a file", "dates": dates, "undated": "undated (2026)"}
    page = page_of(small_result(prices=[source]), tmp_path)
    assert "undated (2026)–3" in page.text.replace(" ", " ")
    assert "2026-09-0150 days5" in page.text


def test_the_same_plan_gives_the_same_pictures(tmp_path):
    files = [write_plan_page(small_result(), tmp_path / f"{name}.html") for name in ("one", "again")]
    svgs = [re.findall(r"<svg.*?</svg>", file.read_text(encoding="utf-8"), re.DOTALL) for file in files]
    assert svgs[0] == svgs[1]


def test_a_place_that_cannot_be_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"is a folder; name a file in it, such as .*plan\.html"):
        write_plan_page(SAMPLE, tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        write_plan_page(SAMPLE, tmp_path / "missing" / "plan.html")
    assert not list(tmp_path.iterdir())


def test_estimates_are_not_shown_finer_than_they_are():
    assert [estimated_usd(v) for v in (None, 0.9798, 1234.5)] == ["–", "$0.98", "$1,234.50"]
    assert [estimated_hours(v) for v in (None, 20.2 / 3600, 0.0562, 0.9236, 0.9999, 2.395)] == [
        "–",
        "20 s",
        "3.4 min",
        "55 min",
        "1 h 00 min",
        "2 h 24 min",
    ]


# What a reader's eye would find, counted by the browser: charts shown, pairs of words that cover each other, words that
# leave their chart, files asked for, pixels that the page is wider than its window.
PROBE = """
<script>addEventListener("load", () => {
  const charts = [...document.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().height > 100)
  let covered = 0, cut = 0
  for (const chart of charts) {
    const frame = chart.getBoundingClientRect()
    const boxes = [...chart.querySelectorAll("text")].map(text => text.getBoundingClientRect())
    cut += boxes.filter(b => b.left < frame.left - 2 || b.right > frame.right + 2).length
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left)
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
      if (wide > 2 && high > 4) covered += 1
    }))
  }
  const requests = performance.getEntriesByType("resource").length
  const overflow = document.documentElement.scrollWidth - innerWidth
  const found = {charts: charts.length, covered, cut, requests, overflow, width: innerWidth}
  parent.postMessage(Object.entries(found).map(pair => pair.join(" ")).join(", "), "*")
})</script></body>"""


# A browser window is never narrower than some 500 pixels; a frame in it may be.
FRAME = """<!doctype html><script>onmessage = event => document.body.dataset.found = event.data</script>
<iframe src="inner.html" width="{width}" height="900" style="border:0"></iframe>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [400, 1400])
def test_chromium_shows_the_charts_without_a_request_or_an_error(sample_file, tmp_path, width):
    inner = tmp_path / "inner.html"
    inner.write_text(sample_file.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1500,1000",
        "--hide-scrollbars", "--virtual-time-budget=5000", "--dump-dom", outer.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    [found] = re.findall(r'data-found="([^"]+)"', done.stdout)
    assert found == f"charts 4, covered 0, cut 0, requests 0, overflow 0, width {width}"
    assert "CONSOLE" not in done.stderr
