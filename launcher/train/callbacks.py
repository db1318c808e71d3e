"""What happens around the steps: spend is metered, rules decide whether to go on, every figure is written down."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from launcher.cost.budget import BudgetGuard, Stretch
from launcher.cost.stopping import BestCheckpoint, DivergenceStop, Patience, StopDecision, ValueStop
from launcher.errors import Interrupted
from launcher.rundir import RunFolder
from launcher.train.tracking import Tracker
from launcher.train.trainer import ToolCallTrainer

STATE_FILE = "launcher_state.json"
PROGRESS_INTERVAL_SECONDS = 0.5
EVAL_METRICS = ("exact_match", "tool_accuracy", "parameter_f1", "validity")


class Meter:
    """Seconds and dollars since the first paid second of the run, earlier legs of a resumed run included."""

    def __init__(self, started_at: float, elapsed_before_s: float, guard: BudgetGuard) -> None:
        self.started_at = started_at
        self.elapsed_before_s = elapsed_before_s
        self.guard = guard

    def elapsed_s(self) -> float:
        return self.elapsed_before_s + time.time() - self.started_at

    def usd(self) -> float:
        return self.guard.usd(self.elapsed_s())


@dataclass
class Progress:
    """The newest state of the run, written for the live table at most twice a second."""

    folder: RunFolder
    meter: Meter
    total_steps: int
    values: dict[str, Any] = field(default_factory=dict)
    written_at: float = 0.0

    def update(self, phase: str, urgent: bool = False, **values: Any) -> None:
        """Take in new values; write them if it is time or `urgent`. Raises Interrupted when the user asked to stop."""
        self.values.update(values)
        now = time.time()
        if not urgent and now - self.written_at < PROGRESS_INTERVAL_SECONDS:
            return
        self.written_at = now
        row = {"phase": phase, "total_steps": self.total_steps, "usd": self.meter.usd(), "updated_at": now}
        self.folder.write_json(self.folder.progress_file, {**self.values, **row})

    def raise_if_stop_requested(self) -> None:
        reason = stop_request(self.folder)
        if reason is not None:
            raise Interrupted(reason)


def stop_request(folder: RunFolder) -> str | None:
    """Why somebody asked this run to stop, or None."""
    try:
        return folder.stop_file.read_text(encoding="utf-8").strip() or "stop requested"
    except FileNotFoundError:
        return None


class RunCallback(TrainerCallback):
    """Meters every stretch, applies the stop rules in a fixed order, and records.

    Order: a request to stop, divergence, budget and deadline, patience, value. The first that speaks is the reason.
    """

    def __init__(
        self,
        folder: RunFolder,
        meter: Meter,
        progress: Progress,
        tracker: Tracker,
        patience: Patience,
        value: ValueStop,
        metric: str,
    ) -> None:
        self.folder, self.meter, self.progress, self.tracker = folder, meter, progress, tracker
        self.patience, self.value, self.metric = patience, value, metric
        self.divergence = DivergenceStop()
        self.best = BestCheckpoint()
        self.decision: StopDecision | None = None
        self.trainer: ToolCallTrainer | None = None
        self._stretch_began = time.monotonic()
        self._logged_losses: list[float] = []
        self._logged_tokens = 0
        self._logged_seconds = 0.0

    # --- state that a checkpoint carries -------------------------------------------------------------------------

    def save_state(self, checkpoint: Path) -> None:
        """Write the counters into a checkpoint, so that a resumed run goes on counting."""
        assert self.trainer is not None
        state = {
            "patience": self.patience.state_dict(),
            "value": self.value.state_dict(),
            "divergence": self.divergence.state_dict(),
            "best": self.best.state_dict(),
            "guard": self.meter.guard.state_dict(),
            "total_tokens": self.trainer.total_tokens,
            "elapsed_s": self.meter.elapsed_s(),
        }
        (checkpoint / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load_state(self, checkpoint: Path) -> None:
        """Take the counters back from a checkpoint."""
        assert self.trainer is not None
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        for name in ("patience", "value", "divergence", "best"):
            getattr(self, name).load_state(state[name])
        self.meter.guard.load_state(state["guard"])
        self.trainer.total_tokens = state["total_tokens"]

    # --- the Trainer's events ------------------------------------------------------------------------------------

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stretch_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert self.trainer is not None
        seconds = self._end_stretch(Stretch.STEP)
        loss, tokens = self.trainer.take_step()
        self._logged_losses.append(loss)
        self._logged_tokens += tokens
        self._logged_seconds += seconds
        elapsed = self.meter.elapsed_s()
        projected = self.meter.guard.projected_usd(state.global_step, state.max_steps, elapsed)
        usd = self.meter.guard.usd(elapsed)
        self.tracker.log(
            state.global_step,
            {"train/loss": loss, "train/tokens": self.trainer.total_tokens, "cost/usd": usd, "cost/projected_usd": projected},
        )
        self.progress.update(
            "training",
            step=state.global_step,
            loss=loss,
            tokens_per_second=self._logged_tokens / max(self._logged_seconds, 1e-9),
            projected_usd=projected,
            eta_s=self.meter.guard.remaining_s(state.global_step, state.max_steps),
        )
        self._decide(state, control, loss)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:  # fmt: skip
        assert self.trainer is not None
        if not logs or "loss" not in logs or not self._logged_losses:
            return
        elapsed = self.meter.elapsed_s()
        row = {
            "kind": "train",
            "step": state.global_step,
            "loss": sum(self._logged_losses) / len(self._logged_losses),
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.trainer.total_tokens,
            "tokens_per_second": self._logged_tokens / max(self._logged_seconds, 1e-9),
            "elapsed_s": elapsed,
            "usd": self.meter.guard.usd(elapsed),
            "projected_usd": self.meter.guard.projected_usd(state.global_step, state.max_steps, elapsed),
        }
        self.folder.append_metrics(row)
        self.tracker.log(
            state.global_step, {"train/learning_rate": row["learning_rate"], "train/grad_norm": row["grad_norm"]}
        )
        self._logged_losses, self._logged_tokens, self._logged_seconds = [], 0, 0.0
        self._stretch_began = time.monotonic()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        self._end_stretch(Stretch.EVALUATION)
        elapsed, usd = self.meter.elapsed_s(), self.meter.usd()
        scores = {name: metrics[f"eval_{name}"] for name in EVAL_METRICS}
        loss = metrics["eval_loss"]
        self.folder.append_metrics(
            {"kind": "eval", "step": state.global_step, "eval_loss": loss, **scores, "elapsed_s": elapsed, "usd": usd}
        )
        self.tracker.log(state.global_step, {"eval/loss": loss, **{f"eval/{k}": v for k, v in scores.items()}})
        self.progress.update("training", urgent=True, **scores)
        watched = loss if self.metric == "loss" else scores[self.metric]
        self.best.update(state.global_step, watched, scores["parameter_f1"])
        self.patience.update(state.global_step, watched)
        self.value.update(state.global_step, watched, usd)
        self._decide(state, control, None)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end_stretch(Stretch.SAVE)
        self.folder.update_record(step=state.global_step, usd=self.meter.usd(), best_step=self.best.step)

    # --- deciding ------------------------------------------------------------------------------------------------

    def _end_stretch(self, kind: Stretch) -> float:
        seconds = time.monotonic() - self._stretch_began
        self._stretch_began = time.monotonic()
        self.meter.guard.record(kind, seconds)
        return seconds

    def _decide(self, state: TrainerState, control: TrainerControl, loss: float | None) -> None:
        if self.decision is None and state.global_step < state.max_steps:
            self.decision = self._first_decision(state, control, loss)
        if self.decision is None:
            return
        control.should_training_stop = True
        if loss is not None:  # after a step; after an evaluation the Trainer saves anyway where a save is due
            # What stops for money or time must not start another evaluation, and what diverged is not worth keeping.
            control.should_evaluate = False
            control.should_save = self.decision.kind != "divergence"

    def _first_decision(self, state: TrainerState, control: TrainerControl, loss: float | None) -> StopDecision | None:
        request = stop_request(self.folder)
        if request is not None:
            return StopDecision("requested", request)
        if loss is not None:
            diverged = self.divergence.update(state.global_step, loss)
            if diverged is not None:
                return diverged
        return (
            self.meter.guard.decide(self.meter.elapsed_s(), self._coming(control))
            or self.patience.decide(state.global_step, state.max_steps)
            or self.value.decide(state.global_step, state.max_steps)
        )

    def _coming(self, control: TrainerControl) -> list[Stretch]:
        """The stretches that pass before the next decision can be taken: what is due now, then one step."""
        due = ((Stretch.EVALUATION, control.should_evaluate), (Stretch.SAVE, control.should_save))
        return [kind for kind, is_due in due if is_due] + [Stretch.STEP]
