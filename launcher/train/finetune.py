"""One job from examples to adapter, evaluated before and after: the program of every worker, read straight down."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, set_seed

from launcher.cost.budget import BudgetGuard, Stretch
from launcher.cost.stopping import Patience, StopDecision, ValueStop
from launcher.data.prepare import PreparedData, read_prepared
from launcher.errors import LauncherError
from launcher.evaluate.score import evaluate_part, quick_metrics
from launcher.job import JobSpec
from launcher.rundir import RunFolder, RunState, now_iso
from launcher.schedule import plan_schedule
from launcher.train.build import build_trainer
from launcher.train.callbacks import Meter, Progress, RunCallback
from launcher.train.checkpoints import newest_complete
from launcher.train.deadline import deadline_process
from launcher.train.mask_audit import audit_trainer, check_masks
from launcher.train.model import load_model, load_tokenizer
from launcher.train.session import run_session
from launcher.train.tracking import Tracker
from launcher.train.trainer import ToolCallTrainer, checkpoint_path
from launcher.train.worst_case import worst_case_step

EVALUATED_PARTS = ("test", "extra_test")


def finetune(folder: RunFolder, resume: bool = False) -> None:
    """Run one job in this process; what it did is in the run folder.

    Raises:
        LauncherError: the job cannot run (bad masks, no memory, no usable checkpoint); the record says why.
    """
    started_at = time.time()
    with run_session(folder):
        spec = JobSpec.from_resolved(folder.read_json(folder.spec_file))
        data = read_prepared(folder)
        schedule = plan_schedule(len(data.train), spec.train, spec.early_stopping)
        meter = build_meter(spec, folder, started_at)
        progress = Progress(folder, meter, schedule.optimizer_steps)
        with deadline_process(folder, meter.guard, meter.elapsed_s()), tracking(spec, folder) as tracker:
            progress.update("loading", urgent=True)
            set_seed(spec.train.seed)
            tokenizer = load_tokenizer(spec)
            callback = build_callback(spec, folder, meter, progress, tracker)
            trainer = build_trainer(spec, data, tokenizer, load_model(spec), schedule, folder, callback)
            callback.trainer = trainer

            progress.update("checking", urgent=True)
            audit = audit_trainer(trainer, spec, data)
            folder.write_json(folder.audit_file, audit.to_json())
            check_masks(audit)
            worst_case_step(trainer, audit.longest_row, spec.train.batch)

            evaluate = evaluator(spec, data, tokenizer, trainer, folder, progress)
            if folder.read_json(folder.evaluation_file) is None:
                with base_weights(trainer.model):
                    evaluate("base")

            decision = train(trainer, callback, folder, resume)
            keep_best(trainer, callback, folder)
            unaffordable = meter.guard.decide(meter.elapsed_s(), [Stretch.FINAL_EVALUATION])
            if unaffordable is None and decision.kind not in ("requested", "divergence"):
                evaluate("tuned")
            finish(folder, decision, trainer, callback, tracker, unaffordable)


def build_meter(spec: JobSpec, folder: RunFolder, started_at: float) -> Meter:
    """The run's meter; a resumed run goes on from what its earlier legs cost."""
    before = (folder.read_json(folder.progress_file) or {}).get("elapsed_s", 0.0)
    guard = BudgetGuard(spec.resources.usd_per_hour, spec.budget.max_usd, spec.budget.deadline)
    return Meter(started_at, before, guard)


def build_callback(
    spec: JobSpec, folder: RunFolder, meter: Meter, progress: Progress, tracker: Tracker
) -> RunCallback:
    """The stop rules as the job states them."""
    rule = spec.early_stopping
    goal = "min" if rule.metric == "loss" else "max"
    patience = Patience(goal=goal, patience=rule.patience, threshold=rule.threshold, min_fraction=rule.min_fraction)
    value = ValueStop(goal=goal, usd_per_point=rule.usd_per_point, min_fraction=rule.min_fraction)
    return RunCallback(folder, meter, progress, tracker, patience, value, rule.metric)


@contextlib.contextmanager
def tracking(spec: JobSpec, folder: RunFolder) -> Iterator[Tracker]:
    """W&B for the time of the run; marked failed when an exception passes."""
    tracker = Tracker(spec, folder, folder.read_record())
    try:
        yield tracker
    except BaseException as fault:
        tracker.finish({"state": "failed", "error": str(fault)}, failed=True)
        raise


def evaluator(
    spec: JobSpec,
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    trainer: ToolCallTrainer,
    folder: RunFolder,
    progress: Progress,
) -> Callable[[str], None]:
    """A function that scores the model as it stands and files the result under the given name."""

    def evaluate(name: str) -> None:
        began = time.monotonic()
        scores: dict[str, Any] = {}
        for part in EVALUATED_PARTS:
            examples = getattr(data, part)
            done = 0

            def advance(count: int, total: int = len(examples), part: str = part) -> None:
                nonlocal done
                done += count
                progress.raise_if_stop_requested()
                progress.update("evaluating", note=f"{name} on {part}: {done}/{total}")

            scores[part], rows = evaluate_part(
                trainer.accelerator.unwrap_model(trainer.model),
                tokenizer,
                examples,
                system_prompt=spec.data.system_prompt_text(),
                tool_set=data.tool_set,
                tools_in_prompt=spec.data.system_prompt.tools,
                batch=spec.evaluate.batch,
                usd_per_hour=spec.resources.usd_per_hour,
                bootstrap_samples=spec.evaluate.bootstrap_samples,
                seed=spec.data.seed,
                progress=advance,
            )
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder.predictions_dir / f"{name}-{part}.jsonl").write_text(lines, encoding="utf-8")
        known = folder.read_json(folder.evaluation_file) or {}
        folder.write_json(folder.evaluation_file, {**known, name: scores})
        progress.meter.guard.record(Stretch.FINAL_EVALUATION, time.monotonic() - began)

    return evaluate


def base_weights(model: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """The model without its adapters; a fully fine-tuned one is still the base before training."""
    return model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()


def train(trainer: ToolCallTrainer, callback: RunCallback, folder: RunFolder, resume: bool) -> StopDecision:
    """Train to the last step or the first rule that says stop; return why it ended.

    Raises:
        LauncherError: the run had made checkpoints, and none of them is complete.
    """
    checkpoint = newest_complete(folder.checkpoints_dir) if resume else None
    if checkpoint is not None:
        callback.load_state(checkpoint)
        row = {"kind": "resume", "step": int(checkpoint.name.removeprefix("step-"))}
        folder.append_metrics(row | {"elapsed_s": callback.meter.elapsed_s(), "usd": callback.meter.usd()})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    decision = callback.decision or StopDecision("done", "all steps done")
    elapsed, usd = callback.meter.elapsed_s(), callback.meter.usd()
    step = trainer.state.global_step
    folder.append_metrics({"kind": "stop", "step": step, "reason": decision.reason, "elapsed_s": elapsed, "usd": usd})
    return decision


def keep_best(trainer: ToolCallTrainer, callback: RunCallback, folder: RunFolder) -> None:
    """Put the best checkpoint's weights into the model and save them as the run's adapter."""
    callback.progress.update("saving", urgent=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    best = checkpoint_path(folder.checkpoints_dir, callback.best.step) if callback.best.step is not None else None
    if best is not None and best.is_dir() and callback.best.step != trainer.state.global_step:
        load_weights(model, best)
    temporary = folder.path / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    trainer.processing_class.save_pretrained(temporary)
    shutil.rmtree(folder.adapter_dir, ignore_errors=True)
    temporary.rename(folder.adapter_dir)


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load a checkpoint's adapter, or its full weights, into the model.

    Raises:
        LauncherError: the checkpoint does not hold this model's weights.
    """
    if isinstance(model, PeftModel):
        result = set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
        unexpected = result.unexpected_keys
    else:
        unexpected = model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False).unexpected_keys
    if unexpected:
        raise LauncherError(f"{checkpoint}: holds weights this model does not have: {', '.join(unexpected[:3])}")


def finish(
    folder: RunFolder,
    decision: StopDecision,
    trainer: ToolCallTrainer,
    callback: RunCallback,
    tracker: Tracker,
    unaffordable: StopDecision | None,
) -> None:
    """Write the run's last word: state, reason, cost, and W&B's summary."""
    reason = decision.reason
    if unaffordable is not None:
        reason += f"; the tuned model was not evaluated: {unaffordable.reason}"
    state = RunState.SUCCEEDED if decision.kind == "done" else RunState.STOPPED
    usd = callback.meter.usd()
    folder.update_record(
        state=state, stop_reason=reason, ended_at=now_iso(), usd=usd,
        step=trainer.state.global_step, best_step=callback.best.step,
    )  # fmt: skip
    callback.progress.update("done", urgent=True, step=trainer.state.global_step)
    evaluation = folder.read_json(folder.evaluation_file) or {}
    summary = {
        f"{name}/{part}/{metric}": entry["value"]
        for name, parts in evaluation.items()
        for part, scores in parts.items()
        for metric, entry in scores["metrics"].items()
    }
    tracker.finish({"state": str(state), "stop_reason": reason, "cost/usd": usd, **summary}, failed=False)
