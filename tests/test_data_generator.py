"""The generated examples: the plan's figures, nothing held out in training, the same bytes everywhere."""

from __future__ import annotations

import difflib
import hashlib
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.data import generator, guard, pool
from launcher.data.examples import ToolCall
from launcher.data.generator import (
    CALLS_PER_TOOL,
    SEED_0_SHA256,
    SPECIALISTS,
    apportion,
    generate,
    generate_report,
    write_generated,
)
from launcher.data.guard import choose_phrasings, phrasing_skeleton, request_skeleton
from launcher.data.plan_format import read_plan_examples
from launcher.data.skeleton import NearestSkeletons, nearest, similarity, skeleton
from launcher.data.tools import load_tools
from launcher.data.values import SYMBOLS, fill
from launcher.errors import BadInput, LauncherError

SEEDS = (0, 1, 2)


def instructions(records):
    return [record["instruction"] for record in records]


def inside(records, tools):
    return [r for r in records if {call["tool"] for call in r["tool_calls"]} <= set(tools)]


def test_the_figures_are_the_plans():
    made = generate(0)
    assert len(made.records) == 854
    assert {part: len(made.part(part)) for part in ("train", "validation", "test")} == {
        "train": 683, "validation": 86, "test": 85,
    }  # fmt: skip
    calls = Counter(call["tool"] for record in made.records for call in record["tool_calls"])
    assert calls == CALLS_PER_TOOL and calls.total() == 1137
    subset_calls = {name: sum(calls[tool] for tool in tools) for name, tools in SPECIALISTS.items()}
    assert subset_calls == {"VERAN-tools": 330, "FARORE-debug": 529, "NAYRU-editor": 339}
    assert {
        name: [len(inside(made.part(part), tools)) for part in ("train", "validation", "test")]
        for name, tools in SPECIALISTS.items()
    } == {"VERAN-tools": [264, 33, 33], "FARORE-debug": [251, 32, 31], "NAYRU-editor": [217, 27, 27]}
    assert all(len(inside(made.extra_test, tools)) >= 300 for tools in SPECIALISTS.values())


def test_seed_0_makes_the_committed_bytes():
    assert generate(0).sha256 == SEED_0_SHA256


def test_another_process_makes_the_same_bytes():
    code = "from launcher.data.generator import generate; print(generate(1, 40).sha256)"
    shown = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert shown == [generate(1, 40).sha256] * 2


def test_seeds_make_different_data():
    assert generate(0).sha256 != generate(1).sha256


@pytest.mark.parametrize("seed", SEEDS)
def test_no_held_out_phrasing_is_in_training(seed):
    made = generate(seed)
    held_out = [*made.part("validation"), *made.part("test"), *made.extra_test]
    train = made.part("train")
    assert not {r["template"] for r in train} & {r["template"] for r in held_out}
    assert not {request_skeleton(t) for t in instructions(train)} & {
        request_skeleton(t) for t in instructions(held_out)
    }
    everything = [text.lower() for text in instructions([*train, *held_out])]
    assert len(set(everything)) == len(everything)
    # Skeletons of the general kind, which know nothing of this generator, agree.
    assert not {skeleton(t) for t in instructions(train)} & {skeleton(t) for t in instructions(held_out)}


@pytest.mark.parametrize("seed", SEEDS)
def test_extra_test_is_made_of_the_test_phrasings_alone(seed):
    made = generate(seed)
    pool_test = {phrasing.id for phrasing in pool.split_pool(seed)["test"]}
    assert {r["template"] for r in made.extra_test} <= pool_test
    assert {r["template"] for r in made.part("test")} <= pool_test


@pytest.mark.parametrize("seed", SEEDS)
def test_test_requests_are_far_from_training_by_a_plain_count(seed):
    """The limits hold by difflib over all pairs, without the bounds that make the guard fast."""
    made = generate(seed)
    train = {request_skeleton(text) for text in instructions(made.part("train"))}
    test = {request_skeleton(text) for text in instructions([*made.part("test"), *made.extra_test])}
    ratios = sorted(max(difflib.SequenceMatcher(None, t.split(), o.split()).ratio() for o in train) for t in test)
    assert ratios[len(ratios) // 2] <= 0.65
    assert ratios[-1] <= 0.90
    assert ratios == pytest.approx(made.similarity.similarities())


@pytest.mark.parametrize("seed", range(12))
def test_every_seed_gives_data_far_enough_apart(seed):
    made = generate(seed, 0)
    assert made.similarity.median() <= 0.65 and made.similarity.highest() <= 0.90
    assert len(made.part("train")) == 683


def test_the_extra_set_changes_nothing_else():
    assert generate(0, 0).records == generate(0).records


def test_phrasings_for_training_do_not_change_what_is_held_out(monkeypatch):
    before = generate(3)
    choose_phrasings.cache_clear()
    monkeypatch.setattr(guard, "load_training", lambda: ())
    after = generate.__wrapped__(3)
    choose_phrasings.cache_clear()
    assert after.extra_test == before.extra_test
    assert after.part("test") == before.part("test")
    assert after.part("train") != before.part("train")


def test_a_phrasing_copied_from_a_test_phrasing_is_left_out(monkeypatch):
    copied = choose_phrasings(0).test[0]
    leak = pool.Phrasing("leak/x00", copied.kind, copied.text)
    choose_phrasings.cache_clear()
    added = pool.load_training()
    monkeypatch.setattr(guard, "load_training", lambda: (leak, *added))
    chosen = choose_phrasings(0)
    choose_phrasings.cache_clear()
    assert leak in chosen.left_out and leak not in chosen.train


def test_training_too_near_to_test_is_refused(monkeypatch):
    choice = choose_phrasings(0)
    monkeypatch.setattr(guard, "MAX_MEDIAN_SIMILARITY", 0.3)
    with pytest.raises(LauncherError, match=r"too near.*median similarity 0\.\d\d \(at most 0\.3\)"):
        guard.measure_similarity(choice.test, [phrasing_skeleton(p) for p in choice.train])


def test_a_changed_pool_is_refused(monkeypatch, tmp_path):
    raw = (files("launcher.data") / "phrasings" / "pool.yaml").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == pool.POOL_SHA256
    folder = tmp_path / "phrasings"
    folder.mkdir()
    (folder / "pool.yaml").write_bytes(raw.replace(b"Boot {rom}", b"Boot up {rom}", 1))
    monkeypatch.setattr(pool, "files", lambda _: tmp_path)
    with pytest.raises(LauncherError, match="pool is frozen"):
        pool.load_pool.__wrapped__()


def test_the_pool_has_its_size_and_every_phrasing_once():
    phrasings = [p for group in pool.load_pool().values() for p in group] + list(pool.load_training())
    assert Counter("pool" if "/x" not in p.id else "added" for p in phrasings)["pool"] == 278
    assert len({p.id for p in phrasings}) == len(phrasings)
    assert len({(p.kind, p.text) for p in phrasings}) == len(phrasings)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_request_has_the_skeleton_of_its_phrasing(seed):
    made = generate(seed)
    choice = made.phrasings
    shapes = {p.id: phrasing_skeleton(p) for p in (*choice.train, *choice.validation, *choice.test)}
    for record in (*made.records, *made.extra_test):
        assert request_skeleton(record["instruction"]) == shapes[record["template"]], record["instruction"]


def test_every_call_is_one_the_tools_accept():
    tools = load_tools()
    for record in (*generate(0).records, *generate(0).extra_test):
        for call in record["tool_calls"]:
            assert tools.validate_call(ToolCall(call["tool"], call["parameters"])) == []


def test_what_a_request_states_is_in_its_calls():
    """Addresses and files of a request come back in its calls, `$7E00` as `0x7E00`; symbols as what they stand for."""
    for record in generate(0).records:
        text = record["instruction"]
        values = {str(value) for call in record["tool_calls"] for value in call["parameters"].values()}
        for stated in re.findall(r"(?:\$|0x)[0-9A-F]{2,}\b|[\w/]+\.(?:sfc|smc|png|json|pal|bin|txt|spc)\b", text):
            if "assemble" not in record["template"]:
                assert stated.replace("$", "0x") in values, record
        for symbol, (address, length) in SYMBOLS.items():
            if symbol in text:
                call = record["tool_calls"][0]["parameters"]
                assert call["address"] == address and call.get("length", length) == length


def test_training_sees_every_symbol_about_equally_often():
    texts = instructions(inside(generate(0).part("train"), SPECIALISTS["VERAN-tools"]))
    seen = {symbol: sum(symbol in text for text in texts) for symbol in SYMBOLS}
    assert min(seen.values()) >= 3 and max(seen.values()) - min(seen.values()) <= 3


def test_more_requests_than_the_test_phrasings_can_give_are_refused(monkeypatch):
    # Every request the same but for its opening and closing: there are a few dozen.
    monkeypatch.setattr(generator, "fill", lambda kind, *_: (f"Do {kind}", fill(kind, "{addr} {n}", Random(0), str)[1]))
    with pytest.raises(BadInput, match=r"mesen2.run: only \d+ different requests can be made for extra_test, not 300"):
        generate.__wrapped__(0, 300, (("mesen2.run",),))


def test_the_report_says_what_the_data_is():
    report = generate_report(0)
    assert report["is_committed_data"] is True
    assert report["examples"]["train"] == 683
    assert report["specialists"]["NAYRU-editor"]["extra_test"] >= 300
    assert len(report["similarity_of_each_test_skeleton"]) == report["phrasings"]["test"] == 55
    assert report["similarity_of_test_to_training"]["highest"] == report["nearest"][0]["similarity"]
    first = report["nearest"][0]
    assert similarity(first["test"], first["training"]) == first["similarity"]


def test_written_data_reads_back_as_a_users_own(tmp_path):
    write_generated(0, tmp_path / "out")
    examples = list(read_plan_examples(tmp_path / "out" / "examples.jsonl"))
    assert len(examples) == 854
    assert {example.source for example in examples} == {"synthetic"}
    assert Counter(example.difficulty for example in examples) == {"simple": 631, "medium": 163, "complex": 60}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 500), min_size=1, max_size=9), st.integers(0, 1000))
def test_apportion_gives_out_everything_in_proportion(weights, total):
    shares = apportion(weights, total)
    whole = sum(weights.values())
    assert sum(shares.values()) == (total if whole else 0)
    for key, share in shares.items():
        assert not whole or abs(share - weights[key] * total / whole) < 1


WORDS = st.lists(st.sampled_from(["run", "#", "to", "the", "@", "frames", "save"]), min_size=1, max_size=9).map(
    " ".join
)


@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=1, max_size=6))
def test_the_fast_nearest_is_the_plain_maximum(held_out, training):
    distances = NearestSkeletons(held_out)
    for text in training:
        distances.add(text)
        assert nearest(text, held_out) == max(similarity(other, text) for other in held_out)
    for text in held_out:
        assert distances.nearest[text][0] == max(similarity(text, other) for other in training)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('Open "My Hack.sfc" and read $7E00', "open # and read #"),
        ("Export roms/v1/link_2.png, then wait 3.5 s", "export #, then wait # s"),
        ("What's at 0x7EF360?  Read 2 bytes.", "what's at #? read # bytes."),
        ("Load zelda3.sfc", "load #"),
    ],
)
def test_a_skeleton_keeps_the_words_and_drops_the_values(text, shape):
    assert skeleton(text) == shape
