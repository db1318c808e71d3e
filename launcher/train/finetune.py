"""One job from examples to adapter, evaluated before and after: the program of every worker, read straight down."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed

from launcher.cost.budget import BudgetGuard, Stretch
from launcher.cost.ledger import LOCAL, LedgerEntry, LedgerEvent, default_ledger
from launcher.cost.stopping import StopDecision
from launcher.data.prepare import PreparedData, read_prepared
from launcher.errors import Interrupted, LauncherError
from launcher.evaluate.score import evaluate_part
from launcher.job import JobSpec
from launcher.rundir import RunFolder, RunState, now_iso
from launcher.schedule import plan_schedule
from launcher.train.build import build_trainer, fit_micro_batch
from launcher.train.calibrate import Calibrator
from launcher.train.callbacks import RunCallback
from launcher.train.checkpoints import checkpoint_path, checkpoint_step, explained_disk_faults, newest_complete
from launcher.train.count_tokens import training_rows
from launcher.train.deadline import deadline_process
from launcher.train.mask_audit import audit_trainer, check_masks
from launcher.train.measurement import Measured
from launcher.train.model import load_model, load_tokenizer
from launcher.train.progress import Meter, Progress
from launcher.train.session import run_session
from launcher.train.tracking import Tracker
from launcher.train.trainer import ToolCallTrainer

EVALUATED_PARTS = ("test", "extra_test")


def finetune(folder: RunFolder, resume: bool = False, started_at: float | None = None) -> None:
    """Run one job in this process; what it did is in the run folder.

    Args:
        started_at: the first paid second, since the epoch; None: now.

    Raises:
        LauncherError: the job cannot run (bad masks, no memory, no usable checkpoint); the record says why.
    """
    started_at = started_at or time.time()
    with run_session(folder):
        spec = folder.read_spec()
        data = read_prepared(folder)
        schedule = plan_schedule(training_rows(spec, data), spec.train, spec.early_stopping)
        meter = build_meter(spec, folder, started_at)
        progress = Progress(folder, meter, schedule.optimizer_steps)
        with ledger_entries(spec, folder, meter), hard_stop(spec, folder, meter), tracking(spec, folder) as tracker:
            progress.update("loading", urgent=True)
            set_seed(spec.train.seed)
            callback = RunCallback(spec, schedule, folder, progress, tracker)
            tokenizer = load_tokenizer(spec)
            loading_began = time.monotonic()
            model = load_model(spec)
            load_s = time.monotonic() - loading_began
            trainer = build_trainer(spec, data, tokenizer, model, schedule, folder, callback)

            progress.update("checking", urgent=True)
            audit = audit_trainer(trainer, spec, data)
            folder.write_json(folder.audit_file, audit.to_json())
            check_masks(audit)
            measured = Measured(fit_micro_batch(trainer, spec, schedule, audit), load_s)
            callback.calibrator = Calibrator(spec, data, schedule, folder, progress, tracker, trainer, measured)

            if folder.read_json(folder.evaluation_file) is None:
                with base_weights(trainer.model):
                    evaluate("base", spec, data, trainer, folder, progress)

            decision = train(trainer, callback, folder, resume)
            skipped = why_no_weights(decision, callback)
            if skipped is None:
                keep_best(trainer, callback, folder)
                skipped = why_not_evaluate(decision, meter)
            if skipped is None:
                evaluate("tuned", spec, data, trainer, folder, progress)
            finish(folder, decision, skipped, callback, tracker)


# --- the frame -------------------------------------------------------------------------------------------------------


def build_meter(spec: JobSpec, folder: RunFolder, started_at: float) -> Meter:
    """The run's meter; a resumed run goes on from what its earlier legs cost."""
    before = (folder.read_json(folder.progress_file) or {}).get("elapsed_s", 0.0)
    guard = BudgetGuard(spec.resources.usd_per_hour, spec.budget.max_usd, spec.budget.deadline)
    return Meter(guard, started_at, before)


@contextlib.contextmanager
def ledger_entries(spec: JobSpec, folder: RunFolder, meter: Meter) -> Iterator[None]:
    """The run's lines in the ledger: one before the work, one after it; the run folder holds a copy."""
    ledger = default_ledger()
    rental = f"{LOCAL}-{folder.id}-{meter.started_at:.0f}"
    base = LedgerEntry(
        at=meter.started_at,
        event=LedgerEvent.STARTED,
        run_id=folder.id,
        group=folder.read_record().group,
        provider=LOCAL,
        rental=rental,
        usd_per_hour=spec.resources.usd_per_hour,
        max_usd=spec.budget.max_usd,
        deadline_at=None if meter.hard_stop_at == float("inf") else meter.hard_stop_at,
    )
    ledger.append(base)
    try:
        yield
    finally:
        usd = meter.guard.usd(time.time() - meter.started_at)
        ledger.append(base.later(LedgerEvent.CONFIRMED_GONE, usd=usd))
        ledger.copy_run(folder.id, folder.ledger_file)


def hard_stop(spec: JobSpec, folder: RunFolder, meter: Meter) -> contextlib.AbstractContextManager[None]:
    """The process that ends this one where its own rules did not: at the deadline or at the cap."""
    guard = meter.guard
    if guard.cap_at_s <= guard.hard_stop_at_s:
        reason = f"budget: the cap of {guard.max_usd:g} usd was reached and training did not answer; ended from outside"
    else:
        reason = f"deadline: {guard.deadline_s:g} s passed and training did not answer; ended from outside"
    return deadline_process(folder.path, meter.hard_stop_at, reason, guard.grace_s)


@contextlib.contextmanager
def tracking(spec: JobSpec, folder: RunFolder) -> Iterator[Tracker]:
    """W&B for the time of the run; marked failed when an exception passes."""
    tracker = Tracker(spec, folder, folder.read_record())
    try:
        yield tracker
    except BaseException as fault:
        tracker.finish({"state": "ended early", "error": str(fault)}, failed=not isinstance(fault, Interrupted))
        raise


# --- the work --------------------------------------------------------------------------------------------------------


def evaluate(
    name: str, spec: JobSpec, data: PreparedData, trainer: ToolCallTrainer, folder: RunFolder, progress: Progress
) -> None:
    """Score the model as it stands on both test sets, and file scores and predictions under `name`."""
    began = time.monotonic()
    cap = spec.evaluate.max_new_tokens
    scores: dict[str, Any] = {}
    answered, prompts = 0, sum(len(getattr(data, part)) for part in EVALUATED_PARTS)

    def advance(count: int) -> None:
        nonlocal answered
        answered += count
        progress.raise_if_stop_requested()
        progress.update("evaluating", answered=answered, prompts=prompts)

    for part in EVALUATED_PARTS:
        examples = getattr(data, part)
        scores[part], rows = evaluate_part(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            examples,
            system_prompt=spec.system_prompt_text() or "",
            tool_set=data.tool_set,
            tools_in_prompt=spec.data.system_prompt.tools,
            batch=spec.evaluate.batch,
            usd_per_hour=spec.resources.usd_per_hour,
            bootstrap_samples=spec.evaluate.bootstrap_samples,
            seed=spec.data.seed,
            max_new_tokens=None if cap == "auto" else cap,
            progress=advance,
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder.predictions_dir / f"{name}-{part}.jsonl").write_text(lines, encoding="utf-8")
    known = folder.read_json(folder.evaluation_file) or {}
    folder.write_json(folder.evaluation_file, {**known, name: scores})
    progress.meter.guard.record(Stretch.FINAL_EVALUATION, time.monotonic() - began)


def base_weights(model: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """The model without its adapters; a fully fine-tuned one is still the base before training."""
    return model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()


def train(trainer: ToolCallTrainer, callback: RunCallback, folder: RunFolder, resume: bool) -> StopDecision:
    """Train to the last step or the first rule that says stop; return why it ended.

    Raises:
        LauncherError: the run had made checkpoints, and none of them is whole.
    """
    checkpoint = None
    if resume:
        checkpoint, faults = newest_complete(folder.checkpoints_dir)
        if faults and checkpoint is None:
            raise LauncherError("\n".join([*faults, f"{folder.id}: no checkpoint is whole; start a new run"]))
        for fault in faults:
            print(f"not resumed from: {fault}")
    step = checkpoint_step(checkpoint) if checkpoint else 0
    if resume:
        folder.drop_metrics_after(step)
    if checkpoint is not None:
        callback.load_state(checkpoint)
        row = {"kind": "resume", "step": step, "elapsed_s": callback.meter.elapsed_s(), "usd": callback.meter.usd()}
        folder.append_metrics(row)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    decision = callback.decision or StopDecision("done", "all steps done")
    row = {"kind": "stop", "step": trainer.state.global_step, "reason": decision.reason}
    folder.append_metrics(row | {"elapsed_s": callback.meter.elapsed_s(), "usd": callback.meter.usd()})
    return decision


def keep_best(trainer: ToolCallTrainer, callback: RunCallback, folder: RunFolder) -> None:
    """Put the best checkpoint's weights into the model, where the job wants that, and save them as the adapter."""
    callback.progress.update("saving", urgent=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    best = callback.best.step
    if callback.spec.train.load_best and best is not None and best != trainer.state.global_step:
        load_weights(model, checkpoint_path(folder.checkpoints_dir, best))
    written = folder.path / ".adapter"
    shutil.rmtree(written, ignore_errors=True)
    with explained_disk_faults(folder.adapter_dir):
        model.save_pretrained(written)
        trainer.processing_class.save_pretrained(written)
        shutil.rmtree(folder.adapter_dir, ignore_errors=True)
        written.rename(folder.adapter_dir)


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load a checkpoint's adapter, or its full weights, into the model.

    Raises:
        LauncherError: the checkpoint does not hold this model's weights.
    """
    if isinstance(model, PeftModel):
        result = set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        result = model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
    if result.unexpected_keys:
        raise LauncherError(f"{checkpoint}: holds weights this model does not have: {result.unexpected_keys[:3]}")


def why_no_weights(decision: StopDecision, callback: RunCallback) -> str | None:
    """Why there are no weights worth keeping, or None: there are."""
    if decision.kind == "divergence" and callback.best.step is None:
        return "no adapter: the run diverged before its first evaluation"
    return None


def why_not_evaluate(decision: StopDecision, meter: Meter) -> str | None:
    """Why the tuned model is not evaluated now, or None: it is."""
    if decision.kind == "requested":
        return "stopped on request; it will be evaluated when the run is resumed and ends"
    unaffordable = meter.guard.decide(meter.elapsed_s(), [Stretch.FINAL_EVALUATION])
    return None if unaffordable is None else f"the evaluation no longer fits; {unaffordable.reason}"


def finish(
    folder: RunFolder, decision: StopDecision, skipped: str | None, callback: RunCallback, tracker: Tracker
) -> None:
    """Write the run's last word: state, reason, cost, and W&B's summary."""
    usd, step = callback.meter.usd(), callback.trainer.state.global_step
    if callback.calibrator is not None:
        callback.calibrator.finish(step, is_complete=decision.kind == "done" and skipped is None)
    state = RunState.SUCCEEDED if decision.kind == "done" else RunState.STOPPED
    print(f"{state} at step {step}: {decision.reason}" + (f"; {skipped}" if skipped else ""))
    callback.progress.update("done", urgent=True, step=step, note=skipped)
    folder.update_record(
        state=state, stop_reason=decision.reason, ended_at=now_iso(), usd=usd, step=step, best_step=callback.best.step
    )
    evaluation = folder.read_json(folder.evaluation_file) or {}
    summary = {
        f"{name}/{part}/{metric}": entry["value"]
        for name, parts in evaluation.items()
        for part, scores in parts.items()
        for metric, entry in scores["metrics"].items()
    }
    tracker.finish({"state": str(state), "stop_reason": decision.reason, "cost/usd": usd, **summary}, failed=False)
