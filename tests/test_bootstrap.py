"""Intervals over templates: honest where phrasings are all right or all wrong, and silent where nothing can be said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data.examples import ToolCall
from launcher.evaluate.bootstrap import (
    FEWEST_TEMPLATES,
    _student_quantile,
    metric_ratios,
    paired_difference,
    template_intervals,
)
from launcher.evaluate.metrics import mean_scores, score_answer
from launcher.evaluate.parsing import render_calls

SAMPLES = 1000


def exact(hits, templates, seed=0, samples=SAMPLES):
    ratio = ([float(h) for h in hits], [1.0] * len(hits))
    return template_intervals({"exact_match": ratio}, templates, samples, seed)["exact_match"]


def all_or_nothing(generator, templates, share, fills=20):
    right = generator.random(templates) < share
    return [bool(r) for r in right for _ in range(fills)], [f"t{i}" for i in range(templates) for _ in range(fills)]


def test_wider_than_over_prompts_where_phrasings_are_all_or_nothing():
    hits = [i % 4 != 0 for i in range(16) for _ in range(20)]
    over_templates = exact(hits, [f"t{i}" for i in range(16) for _ in range(20)])
    over_prompts = exact(hits, [str(i) for i in range(320)])
    assert over_templates.value == over_prompts.value == 0.75
    assert over_templates.high - over_templates.low > 3 * (over_prompts.high - over_prompts.low)


def test_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    covered = {"templates": 0, "prompts": 0}
    for trial in range(200):
        hits, templates = all_or_nothing(generator, 16, 0.7)
        for name, groups in (("templates", templates), ("prompts", [str(i) for i in range(len(hits))])):
            interval = exact(hits, groups, seed=trial, samples=400)
            covered[name] += interval.low <= 0.7 <= interval.high
    assert covered["templates"] / 200 >= 0.92
    assert covered["prompts"] / 200 <= 0.5  # what intervals over prompts would have claimed to be 95 %


def test_the_difference_covers_the_truth_too():
    generator = np.random.default_rng(6)
    covered = 0
    for trial in range(300):
        hard = generator.random(16)
        base, tuned = ([float(h < level) for h in hard for _ in range(10)] for level in (0.3, 0.7))
        ones, templates = [1.0] * 160, [f"t{i}" for i in range(16) for _ in range(10)]
        gain = paired_difference((base, ones), (tuned, ones), templates, 400, trial)
        covered += gain.low is not None and gain.low <= 0.4 <= gain.high
    assert covered / 300 >= 0.92


def test_pairing_sees_a_gain_that_two_intervals_hide():
    tuned = [float(i % 3 != 0) for i in range(15) for _ in range(10)]
    # The base solves the same phrasings, but a fifth fewer of their fills.
    base = [hit * (i % 10 >= 2) for i, hit in enumerate(tuned)]
    ones, templates = [1.0] * 150, [f"t{i}" for i in range(15) for _ in range(10)]
    gain = paired_difference((base, ones), (tuned, ones), templates, SAMPLES, 0)
    assert gain.value == pytest.approx(2 / 15)
    assert gain.low > 0
    assert exact(base, templates).high > exact(tuned, templates).low


@pytest.mark.parametrize("templates", range(1, FEWEST_TEMPLATES))
def test_too_few_templates_give_no_interval(templates):
    interval = exact([True, False] * templates, [f"t{i // 2}" for i in range(2 * templates)])
    assert (interval.value, interval.low, interval.high) == (0.5, None, None)


def test_templates_that_all_agree_never_give_zero_width():
    templates = [f"t{i // 5}" for i in range(80)]
    none_right, all_right = exact([False] * 80, templates), exact([True] * 80, templates)
    # 16 phrasings without a hit leave a fifth open: 1 - 0.025^(1/16)
    assert (none_right.low, none_right.high) == (0.0, pytest.approx(0.2059, abs=1e-4))
    assert (all_right.low, all_right.high) == (pytest.approx(0.7941, abs=1e-4), 1.0)
    half = exact([i % 2 == 0 for i in range(80)], [f"t{i // 2}" for i in range(80)])
    assert (half.value, half.low, half.high) == (0.5, None, None)


def test_the_same_seed_gives_the_same_interval_in_any_order_of_examples():
    generator = np.random.default_rng(1)
    hits, templates = all_or_nothing(generator, 12, 0.6)
    order = generator.permutation(len(hits))
    shuffled = exact([hits[i] for i in order], [templates[i] for i in order])
    assert shuffled == exact(hits, templates)
    assert exact(hits, templates, seed=1) != exact(hits, templates, seed=2)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None)
def test_an_interval_lies_in_the_unit_range_around_the_value(rows):
    estimate = exact([hit for _, hit in rows], [f"t{template}" for template, _ in rows], samples=100)
    if estimate.low is None:
        assert estimate.high is None
    else:
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1
        assert estimate.low < estimate.high


def test_values_are_those_of_the_means_and_f1_is_pooled():
    run = ToolCall("mesen2.run", {"frames": 60, "speed": 2})
    answers = [render_calls([run]), render_calls([ToolCall("mesen2.run", {"frames": 1})]), "prose"] * 4
    scores = [score_answer(answer, (run,), lambda call: []) for answer in answers]
    estimates = template_intervals(metric_ratios(scores), [f"t{i // 2}" for i in range(12)], SAMPLES, 0)
    assert {name: estimate.value for name, estimate in estimates.items()} == pytest.approx(mean_scores(scores))


@pytest.mark.parametrize(("freedom", "tabled"), [(5, 2.5706), (15, 2.1314), (30, 2.0423), (1000, 1.9623)])
def test_student_quantiles_agree_with_the_tables(freedom, tabled):
    assert -_student_quantile(0.025, freedom) == pytest.approx(tabled, abs=3e-3)
