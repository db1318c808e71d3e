"""The schedule counts as transformers' Trainer counts, and one that cannot work is refused with what to write."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import BadInput
from launcher.job import EarlyStoppingSpec, TrainSpec
from launcher.schedule import plan_schedule

NO_PATIENCE = EarlyStoppingSpec(patience=None)
# Training examples of VERAN-tools, FARORE-debug, NAYRU-editor.
SPECIALISTS = {264: 51, 251: 48, 217: 42}


def refusal(examples: int, train: TrainSpec, stopping: EarlyStoppingSpec = NO_PATIENCE) -> str:
    with pytest.raises(BadInput) as caught:
        plan_schedule(examples, train, stopping)
    return str(caught.value)


def steps_by_looping(examples: int, batch: int, accumulation: int, epochs: int) -> int:
    """Optimizer steps counted one by one, an epoch's last accumulation possibly partial."""
    steps = 0
    for _ in range(epochs):
        waiting = 0
        batches = len(range(0, examples, batch))
        for index in range(batches):
            waiting += 1
            if waiting == accumulation or index == batches - 1:
                steps, waiting = steps + 1, 0
    return steps


@given(examples=st.integers(20, 400), batch=st.integers(1, 9), accumulation=st.integers(1, 5), epochs=st.integers(1, 4))
def test_steps_are_those_a_training_loop_takes(examples: int, batch: int, accumulation: int, epochs: int) -> None:
    expected = steps_by_looping(examples, batch, accumulation, epochs)
    train = TrainSpec(batch=batch, accumulation=accumulation, epochs=epochs, logging_steps=1)
    if expected < 2:
        assert "single optimizer step" in refusal(examples, train)
    else:
        assert plan_schedule(examples, train, NO_PATIENCE).optimizer_steps == expected


@pytest.mark.slow
def test_steps_points_and_warm_up_are_those_of_the_installed_trainer() -> None:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import DefaultFlowCallback

    for examples, batch, accumulation, epochs in (
        (264, 4, 4, 3.0),
        (251, 4, 4, 3.0),
        (217, 3, 5, 2.5),
        (33, 8, 1, 1.3),
    ):
        train = TrainSpec(batch=batch, accumulation=accumulation, epochs=epochs, warmup_ratio=0.07, logging_steps=1)
        ours = plan_schedule(examples, train, NO_PATIENCE)
        args = SimpleNamespace(
            max_steps=-1, num_train_epochs=epochs, gradient_accumulation_steps=accumulation, warmup_steps=0.07
        )
        trainer = SimpleNamespace(get_total_train_batch_size=lambda args: 0, get_sp_size=lambda: 1, num_examples=len)
        loader = range(math.ceil(examples / batch))
        _, steps_per_epoch, *_, max_steps = Trainer.set_initial_training_values(trainer, args, loader)
        assert (ours.steps_per_epoch, ours.optimizer_steps) == (steps_per_epoch, max_steps)
        assert ours.warmup_steps == TrainingArguments.get_warmup_steps(args, max_steps)

        flow = SimpleNamespace(
            logging_first_step=False, logging_strategy="no", eval_strategy="steps", eval_delay=0, save_strategy="steps"
        )
        state = TrainerState(max_steps=max_steps, eval_steps=ours.eval_steps, save_steps=ours.save_steps)
        evaluated, saved = [], []
        for state.global_step in range(1, max_steps + 1):
            control = DefaultFlowCallback().on_step_end(flow, state, TrainerControl())
            evaluated += [state.global_step] * control.should_evaluate
            saved += [state.global_step] * control.should_save
        assert (ours.evaluation_points, ours.save_points) == (evaluated, saved)


@pytest.mark.parametrize(("examples", "steps"), SPECIALISTS.items())
def test_the_plans_own_values_are_refused_with_what_to_write(examples: int, steps: int) -> None:
    message = refusal(examples, TrainSpec(eval_steps=50, save_steps=100), EarlyStoppingSpec())
    lines = message.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "train.eval_steps",
        "train.save_steps",
        "early_stopping.patience",
    ]
    assert all(f"{steps} optimizer steps" in line and f"{examples} examples" in line for line in lines)
    assert "write eval_steps: auto" in lines[0] and "write save_steps: auto" in lines[1]


@pytest.mark.parametrize(("examples", "steps"), SPECIALISTS.items())
def test_auto_gives_the_specialists_about_eight_evaluations_and_a_save_at_each(examples: int, steps: int) -> None:
    schedule = plan_schedule(examples, TrainSpec(), EarlyStoppingSpec(min_fraction=0.8))
    assert schedule.optimizer_steps == steps
    assert 7 <= schedule.evaluations <= 9
    assert schedule.save_points == schedule.evaluation_points


@given(
    steps=st.integers(2, 3000),
    patience=st.one_of(st.none(), st.integers(1, 12)),
    min_fraction=st.floats(0, 0.95),
)
def test_auto_always_works_if_anything_does(steps: int, patience: int | None, min_fraction: float) -> None:
    """With auto, patience can always be exhausted before the end, unless there are too few steps for any interval."""
    stopping = EarlyStoppingSpec(patience=patience, min_fraction=min_fraction)
    train = TrainSpec(max_steps=steps, warmup_ratio=0, logging_steps=1)
    hopeless = patience is not None and (steps < patience + 2 or math.ceil(min_fraction * steps) >= steps)
    if hopeless:
        assert "early_stopping" in refusal(100, train, stopping)
        return
    schedule = plan_schedule(100, train, stopping)
    assert schedule.evaluation_points[-1] == steps and schedule.evaluations >= 2
    if patience is None:
        assert schedule.evaluations <= 8
    else:
        before_the_end = schedule.evaluation_points[patience:-1]
        assert any(schedule.patience_from_step <= step < steps for step in before_the_end)


@given(
    examples=st.integers(1, 500),
    batch=st.integers(1, 16),
    accumulation=st.integers(1, 8),
    eval_steps=st.one_of(st.just("auto"), st.integers(1, 200)),
    save_steps=st.one_of(st.just("auto"), st.integers(1, 200)),
    patience=st.one_of(st.none(), st.integers(1, 6)),
    warmup_ratio=st.floats(0, 0.99),
)
def test_an_accepted_schedule_works(
    examples: int,
    batch: int,
    accumulation: int,
    eval_steps: int | str,
    save_steps: int | str,
    patience: int | None,
    warmup_ratio: float,
) -> None:
    train = TrainSpec(
        **{"batch": batch, "accumulation": accumulation, "eval_steps": eval_steps, "save_steps": save_steps},
        warmup_ratio=warmup_ratio,
    )
    try:
        schedule = plan_schedule(examples, train, EarlyStoppingSpec(patience=patience))
    except BadInput:
        return
    assert schedule.warmup_steps < schedule.optimizer_steps
    assert schedule.evaluations >= 2
    assert set(schedule.save_points) <= set(schedule.evaluation_points)
    assert patience is None or schedule.evaluation_points[patience] < schedule.optimizer_steps


@pytest.mark.parametrize(
    ("train", "stopping", "expected"),
    [
        ({"eval_steps": 60}, {}, "train.eval_steps: 60: never comes before the end"),
        ({"eval_steps": 26}, {}, "train.eval_steps: 26: comes only once before the end"),
        ({"save_steps": 52}, {}, "train.save_steps: 52: never comes before the end"),
        ({"eval_steps": 6, "save_steps": 10}, {}, "train.save_steps: 10: not a multiple of eval_steps 6"),
        ({"logging_steps": 52}, {}, "train.logging_steps: 52: never comes"),
        ({"warmup_ratio": 0.99}, {}, "train.warmup_ratio: 0.99: the warm-up takes all 51 steps"),
        ({"eval_steps": 13}, {"patience": 3}, "early_stopping.patience: 3: can never be exhausted"),
        (
            {},
            {"patience": 3, "min_steps": 51},
            "early_stopping.min_steps, min_fraction: patience may stop from step 51",
        ),
        ({"epochs": 0.05}, {}, "a single optimizer step"),
    ],
)
def test_what_cannot_work_is_refused(train: dict, stopping: dict, expected: str) -> None:
    message = refusal(264, TrainSpec(**train), EarlyStoppingSpec(**{"patience": None, **stopping}))
    assert expected in message


def test_saves_need_not_follow_evaluations_where_the_best_is_not_loaded() -> None:
    train = TrainSpec(eval_steps=6, save_steps=10, load_best=False)
    assert plan_schedule(264, train, NO_PATIENCE).save_points == [10, 20, 30, 40, 50, 51]


def test_no_examples_are_refused() -> None:
    assert "no training examples" in refusal(0, TrainSpec())


@given(examples=st.integers(40, 500), global_batch=st.integers(1, 20))
def test_the_micro_batch_that_fits_changes_no_step(examples: int, global_batch: int) -> None:
    largest = plan_schedule(examples, TrainSpec(batch="max", global_batch=global_batch, logging_steps=1), NO_PATIENCE)
    assert largest.micro_batch == global_batch
    for size in largest.smaller_micro_batches:
        smaller = largest.with_micro_batch(size)
        assert smaller.micro_batch * smaller.accumulation == global_batch
        assert smaller.optimizer_steps == steps_by_looping(examples, size, smaller.accumulation, 3)
