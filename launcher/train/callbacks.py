"""What happens around the steps: spend is metered, rules decide whether to go on, every figure is written down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.cost.budget import Stretch
from launcher.cost.stopping import BestCheckpoint, DivergenceStop, Goal, Patience, StopDecision, ValueStop
from launcher.job import JobSpec
from launcher.rundir import RunFolder
from launcher.schedule import Schedule
from launcher.train.calibrate import Calibrator
from launcher.train.checkpoints import prune
from launcher.train.progress import Progress, stop_request
from launcher.train.tracking import Tracker
from launcher.train.trainer import ToolCallTrainer

STATE_FILE = "launcher_state.json"
EVAL_METRICS = ("exact_match", "tool_accuracy", "parameter_f1", "validity")


class RunCallback(TrainerCallback):
    """Meters every stretch, applies the stop rules in a fixed order, and records.

    Order: a request to stop, divergence, budget and deadline, patience, value. The first that speaks is the reason.
    """

    trainer: ToolCallTrainer  # set once the trainer, which takes this callback, exists
    calibrator: Calibrator | None = None  # set once the trainer has shown that its widest step fits

    def __init__(
        self, spec: JobSpec, schedule: Schedule, folder: RunFolder, progress: Progress, tracker: Tracker
    ) -> None:
        rule = spec.early_stopping
        goal: Goal = "min" if rule.metric == "loss" else "max"
        self.spec, self.schedule, self.folder, self.tracker = spec, schedule, folder, tracker
        self.progress, self.meter = progress, progress.meter
        self.patience = Patience(goal, rule.patience, rule.threshold, schedule.patience_from_step)
        self.value = ValueStop(goal, rule.usd_per_point, schedule.patience_from_step)
        self.divergence = DivergenceStop()
        self.best = BestCheckpoint("min" if spec.train.metric == "loss" else "max")
        self.decision: StopDecision | None = None
        self._stretch_began = time.monotonic()
        self._losses: list[float] = []
        self._tokens, self._seconds = 0, 0.0

    # --- what a checkpoint carries -------------------------------------------------------------------------------

    def save_state(self, checkpoint: Path) -> None:
        """Write the counters into a checkpoint, so that a resumed run goes on counting."""
        rules = {name: getattr(self, name).state_dict() for name in ("patience", "value", "divergence", "best")}
        state = rules | {"guard": self.meter.guard.state_dict(), "total_tokens": self.trainer.total_tokens}
        (checkpoint / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_state(self, checkpoint: Path) -> None:
        """Take the counters back from a checkpoint."""
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        for name in ("patience", "value", "divergence", "best"):
            getattr(self, name).load_state(state[name])
        self.meter.guard.load_state(state["guard"])
        self.trainer.total_tokens = state["total_tokens"]

    # --- the Trainer's events ------------------------------------------------------------------------------------

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stretch_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._seconds += self._end_stretch(Stretch.STEP)
        loss, tokens, positions = self.trainer.take_step()
        self._losses.append(loss)
        self._tokens += tokens
        remaining_s = self._remaining_s(state)
        cost = self._cost(remaining_s)
        row = {"train/loss": loss, "train/tokens": self.trainer.total_tokens}
        self.tracker.log(state.global_step, row | {f"cost/{name}": value for name, value in cost.items()})
        self.progress.update(
            "training",
            step=state.global_step,
            loss=loss,
            tokens_per_second=self._tokens_per_second(),
            projected_usd=cost["projected_usd"],
            eta_s=remaining_s,
        )
        if self.calibrator is not None:
            self.calibrator.end_step(state.global_step, positions)
        self._decide(state, control, loss)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" not in logs or not self._losses:
            return
        rates = {name: logs.get(name) for name in ("learning_rate", "grad_norm")}
        row = {
            "kind": "train",
            "step": state.global_step,
            "loss": sum(self._losses) / len(self._losses),
            **rates,
            "tokens": self.trainer.total_tokens,
            "tokens_per_second": self._tokens_per_second(),
            "elapsed_s": self.meter.elapsed_s(),
            **self._cost(self._remaining_s(state)),
        }
        self.folder.append_metrics(row)
        self.tracker.log(state.global_step, {f"train/{name}": value for name, value in rates.items()})
        self._losses, self._tokens, self._seconds = [], 0, 0.0

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        self._end_stretch(Stretch.EVALUATION)
        step, elapsed, usd = state.global_step, self.meter.elapsed_s(), self.meter.usd()
        scores = {name: metrics[f"eval_{name}"] for name in EVAL_METRICS}
        values = scores | {"loss": metrics["eval_loss"]}
        row = {"kind": "eval", "step": step, "eval_loss": values["loss"], **scores, "elapsed_s": elapsed, "usd": usd}
        self.folder.append_metrics(row)
        self.tracker.log(step, {f"eval/{name}": value for name, value in values.items()})
        self.progress.update("training", urgent=True, **scores)
        self.best.update(step, values[self.spec.train.metric], scores["parameter_f1"])
        watched = values[self.spec.early_stopping.metric]
        stop = self.patience.update(step, watched) or self.value.update(step, watched, usd)
        if self.decision is None and step < state.max_steps:
            self.decision = stop
        self._decide(state, control, None)
        self._end_pause()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end_stretch(Stretch.SAVE)
        protected = set() if self.best.step is None else {self.best.step}
        prune(self.folder.checkpoints_dir, self.spec.train.keep_checkpoints, protected)
        self.folder.update_record(step=state.global_step, usd=self.meter.usd(), best_step=self.best.step)
        self._end_pause()

    # --- deciding ------------------------------------------------------------------------------------------------

    def _decide(self, state: TrainerState, control: TrainerControl, loss: float | None) -> None:
        if self.decision is None and state.global_step < state.max_steps:
            self.decision = self._first_decision(state, control, loss)
        if self.decision is None:
            return
        control.should_training_stop = True
        if loss is not None:  # after a step; after an evaluation the Trainer saves where a save is due
            # What stops for money or time must not start another evaluation, and what diverged is not worth keeping.
            control.should_evaluate = False
            control.should_save = self.decision.kind != "divergence"

    def _first_decision(self, state: TrainerState, control: TrainerControl, loss: float | None) -> StopDecision | None:
        request = stop_request(self.folder)
        if request is not None:
            return StopDecision("requested", request)
        diverged = self.divergence.update(state.global_step, loss) if loss is not None else None
        return diverged or self.meter.guard.decide(self.meter.elapsed_s(), self._coming(control))

    def _coming(self, control: TrainerControl) -> list[Stretch]:
        """The stretches that pass before the next decision can be taken: what is due now, then one step."""
        due = ((Stretch.EVALUATION, control.should_evaluate), (Stretch.SAVE, control.should_save))
        return [kind for kind, is_due in due if is_due] + [Stretch.STEP]

    # --- figures -------------------------------------------------------------------------------------------------

    def _end_stretch(self, kind: Stretch) -> float:
        now = time.monotonic()
        seconds, self._stretch_began = now - self._stretch_began, now
        self.meter.guard.record(kind, seconds)
        return seconds

    def _end_pause(self) -> None:
        """What has passed since the last step was an evaluation or a save, no part of the next step."""
        if self.calibrator is not None:
            self.calibrator.start_stretch()

    def _tokens_per_second(self) -> float | None:
        return self._tokens / self._seconds if self._seconds else None

    def _remaining_s(self, state: TrainerState) -> float | None:
        step = state.global_step
        return self.meter.guard.remaining_s(
            steps_left=state.max_steps - step,
            evaluations_left=sum(point > step for point in self.schedule.evaluation_points),
            saves_left=sum(point > step for point in self.schedule.save_points),
        )

    def _cost(self, remaining_s: float | None) -> dict[str, float | None]:
        """`usd` so far and `projected_usd` at the end; None where no price is known."""
        elapsed = self.meter.elapsed_s()
        projected = None if remaining_s is None else self.meter.guard.usd(elapsed + remaining_s)
        return {"usd": self.meter.guard.usd(elapsed), "projected_usd": projected}
