"""One optimizer step: ours, with metering and tracking, against stock TRL and against a bare PyTorch loop.

All three train the same LoRA on the same tokenised rows in batches of the same size. Ours and the bare loop run with
the malloc settings our workers get; stock TRL as it comes. CPU seconds a step, the first steps left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import child_json, in_turn, print_machine, print_ratios
from launcher.train.parallel import worker_environment

STEPS, SKIPPED = 24, 6
ROUNDS = 3
JOB = Path("jobs/farore-debug.yaml")


def main() -> None:
    """Run every variant in a process of its own, `ROUNDS` times in turn."""
    ours = worker_environment(threads=1)
    stock = {name: value for name, value in ours.items() if not name.startswith("MALLOC")}
    environments = {"ours": ours, "stock TRL": stock, "bare PyTorch, full logits": ours}

    def measure(name: str) -> Callable[[], float]:
        return lambda: child_json("benchmarks.step", name, environment=environments[name])["cpu_seconds_per_step"]

    print_machine()
    seconds = in_turn({name: measure(name) for name in environments}, ROUNDS)
    print_ratios("training step", seconds, {"stock TRL": 0.85, "bare PyTorch, full logits": 1.05}, ours="ours")


def measure_here(variant: str) -> float:
    """CPU seconds of one step of a variant, in this process."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer, job = _trainer(Path(folder), stock=variant == "stock TRL")
        if variant == "bare PyTorch, full logits":
            marks = _bare_loop(trainer)
        else:
            clock = _clock_callback()
            trainer.add_callback(clock)
            trainer.train()
            marks = clock.marks
        job.finish({}, failed=False)
    return (marks[-1] - marks[SKIPPED]) / (len(marks) - 1 - SKIPPED)


def _trainer(folder: Path, stock: bool) -> tuple[Any, Any]:
    """The trainer of the job as a worker builds it, without evaluations and saves; or stock TRL on the same rows."""
    from trl import SFTTrainer

    from launcher.data.prepare import read_prepared
    from launcher.job import load_job
    from launcher.run import create_runs, plan_run
    from launcher.schedule import plan_schedule
    from launcher.train.build import build_trainer
    from launcher.train.callbacks import RunCallback
    from launcher.train.finetune import build_meter
    from launcher.train.model import load_model, load_tokenizer
    from launcher.train.progress import Progress
    from launcher.train.tracking import Tracker

    spec = load_job(JOB, "tiny")
    run = create_runs([plan_run(spec, "tiny")], folder, "benchmark")[0]
    data = read_prepared(run)
    schedule = plan_schedule(len(data.train), spec.train, spec.early_stopping)
    meter = build_meter(spec, run, time.time())
    tracker = Tracker(spec, run, run.read_record())
    callback = RunCallback(spec, schedule, run, Progress(run, meter, STEPS), tracker)
    trainer = build_trainer(spec, data, load_tokenizer(spec), load_model(spec), schedule, run, callback)
    args = trainer.args
    args.max_steps = STEPS
    args.eval_strategy = args.save_strategy = "no"
    if stock:
        rows, tokenizer = trainer.train_dataset, trainer.processing_class
        trainer = SFTTrainer(model=trainer.model, args=args, train_dataset=rows, processing_class=tokenizer)
    return trainer, tracker


def _clock_callback() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.marks = [time.process_time()]

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.process_time())

    return Clock()


def _bare_loop(trainer: Any) -> list[float]:
    """Forward with all logits, backward, clip, AdamW: the least a step can be without touching the loss."""
    import torch

    model = trainer.model
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=trainer.args.learning_rate, betas=(0.9, 0.98), fused=True)
    marks = [time.process_time()]
    for batch, _ in zip(_endless(trainer), range(STEPS), strict=False):
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), labels.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.process_time())
    return marks


def _endless(trainer: Any) -> Iterator[dict[str, Any]]:
    while True:
        yield from trainer.get_train_dataloader()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", nargs="?")
    chosen = parser.parse_args().variant
    if chosen is None:
        main()
    else:
        print(json.dumps({"cpu_seconds_per_step": measure_here(chosen)}))
