"""Run folders in the documented formats, as a finished, stopped or failed run leaves them; no training needed."""

import dataclasses
import functools
import json
import math
import random
from pathlib import Path

from launcher.data.examples import ToolCall
from launcher.data.tools import load_tools
from launcher.evaluate.bootstrap import metric_ratios, template_intervals
from launcher.evaluate.metrics import per_tool_table, score_answer
from launcher.evaluate.parsing import render_calls
from launcher.rundir import RunFolder, RunRecord, RunState

PHRASINGS = {
    "mesen2.read_memory": ("Show me {length} bytes at {address}", {"address": "0x7E{n:04X}", "length": 16}),
    "z3ed_cli.inspect": ("What is in room {id} of {rom}?", {"rom": "zelda3.sfc", "type": "room", "id": 12}),
    "yaze_debugger.read_memory": (
        "Dump {length} bytes from {address}, please",
        {"address": "0x0{n:03X}", "length": 64},
    ),
    "mesen2.run": ("Let it play for {frames} frames", {"frames": 60}),
}
SPEC = {
    "name": "veran-tools",
    "model": {"id": "builtin:tiny-base", "revision": "main", "attention": "sdpa"},
    "method": {"kind": "lora", "r": 16, "alpha": 32},
    "data": {"source": "builtin:specialists", "seed": 0},
    "targets": {
        "exact_match": {"mvp": 0.7, "production": 0.95, "stretch": 0.99},
        "latency_ms": {"mvp": 500.0, "production": 300.0, "stretch": None},
    },
    "evaluate": {"batch": 64, "bootstrap_samples": 500},
    "resources": {"usd_per_hour": 0.05},
    "budget": {"max_usd": 0.5, "deadline": "6h"},
}
STEPS = 400


def record(run_id: str, job: str, **changes: object) -> RunRecord:
    whole = RunRecord(
        id=run_id,
        job=job,
        group="20260108-120000-3fa2",
        state=RunState.SUCCEEDED,
        created_at="2026-01-08T12:00:00+00:00",
        started_at="2026-01-08T12:00:03+00:00",
        ended_at="2026-01-08T12:03:20+00:00",
        stop_reason="all steps done",
        usd=0.0026,
        usd_per_hour=0.05,
        preset="tiny",
        seed=0,
        step=STEPS,
        total_steps=STEPS,
        best_step=360,
    )
    return dataclasses.replace(whole, **changes)


def write_run(runs_dir: Path, job: str = "veran-tools", skill: float = 0.8, **changes: object) -> RunFolder:
    """A run with everything in it; `skill` is the share of phrasings its tuned model knows."""
    run_id = f"{job}-20260108-120000-3fa2"
    folder = RunFolder.create(runs_dir, run_id, record(run_id, job, **changes))
    folder.write_json(folder.spec_file, {**SPEC, "name": job})
    folder.write_json(folder.split_file, SPLIT)
    folder.write_json(folder.audit_file, AUDIT)
    folder.write_json(folder.environment_file, ENVIRONMENT)
    folder.log_file.write_text("loading the model\nchecking the masks\ntraining\n", encoding="utf-8")
    write_metrics(folder, skill)
    write_evaluation(folder, skill)
    return folder


def write_metrics(folder: RunFolder, skill: float, steps: int = STEPS) -> None:
    noise = random.Random(folder.id)
    for step in range(10, steps + 1, 10):
        loss = 2.6 * math.exp(-step / 70) + 0.06 + noise.uniform(0, 0.03)
        elapsed = 20 + step * 0.4
        spend = {"step": step, "elapsed_s": elapsed, "usd": 0.05 * elapsed / 3600}
        folder.append_metrics(
            {"kind": "train", "loss": loss, "learning_rate": 4e-3, "grad_norm": 0.9, "tokens": step * 1800}
            | {"tokens_per_second": 4100.0, "projected_usd": 0.0026}
            | spend
        )
        if step % 40 == 0:
            share = skill * (1 - math.exp(-step / 120))
            folder.append_metrics(
                {"kind": "eval", "eval_loss": loss + 0.08, "exact_match": share, "tool_accuracy": share + 0.1}
                | {"parameter_f1": share + 0.05, "validity": 0.9}
                | spend
            )
    folder.append_metrics(
        {"kind": "stop", "step": steps, "reason": "all steps done", "elapsed_s": 187.0, "usd": 0.0026}
    )


def write_evaluation(folder: RunFolder, skill: float, models: tuple[str, ...] = ("base", "tuned")) -> None:
    evaluation: dict = {}
    for model in models:
        for part, fills in (("test", 2), ("extra_test", 18)):
            scores, rows = evaluate(folder.id, skill if model == "tuned" else 0.0, fills)
            evaluation.setdefault(model, {})[part] = scores
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder.predictions_dir / f"{model}-{part}.jsonl").write_text(lines, encoding="utf-8")
    folder.write_json(folder.evaluation_file, evaluation)


@functools.cache
def evaluate(name: str, skill: float, fills: int) -> tuple[dict, list[dict]]:
    """16 phrasings, mostly all right or all wrong, each failing in its own way, scored as a real run is."""
    chance = random.Random(name)
    examples, texts = [], []
    for k in range(16):
        tool, (words, arguments) = list(PHRASINGS.items())[k % 4]
        knows = chance.random() < skill
        for i in range(fills):
            filled = {a: v.format(n=17 * i + k) if isinstance(v, str) else v + i for a, v in arguments.items()}
            call = ToolCall(tool, filled)
            examples.append((f"{tool}/{k:02}", f"{words.format(**filled)} <now & here>", (call,), f"{name}-{k}-{i}"))
            slips = chance.random() < 0.05
            texts.append(render_calls((call,)) if knows and not slips else wrong_answer(call, k if skill else 3, i))
    scores = [
        score_answer(text, calls, load_tools().validate_call)
        for text, (_, _, calls, _) in zip(texts, examples, strict=True)
    ]
    templates = [template for template, _, _, _ in examples]
    metrics = {n: e.to_json() for n, e in template_intervals(metric_ratios(scores), templates, 500, 0).items()}
    metrics |= {"tokens_per_second": {"value": 1780.4}, "time_to_first_token_s": {"value": 0.0043}}
    metrics |= {"usd_per_million_tokens": {"value": 0.0078}}
    table = per_tool_table([calls for _, _, calls, _ in examples], scores)
    rows = [
        {
            "id": example_id,
            "template": template,
            "instruction": instruction,
            "expected": as_json(calls),
            "actual": None if s.actual is None else as_json(s.actual),
            "text": text,
            "exact_match": s.exact_match,
            "tool_accuracy": s.tool_accuracy,
            "parse_error": s.parse_error,
        }
        for (template, instruction, calls, example_id), text, s in zip(examples, texts, scores, strict=True)
    ]
    return {"examples": len(rows), "templates": 16, "metrics": metrics, "per_tool": table}, rows


def as_json(calls: tuple[ToolCall, ...]) -> list[dict]:
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]


def wrong_answer(call: ToolCall, kind: int, i: int) -> str:
    first = next(iter(call.arguments))
    match kind % 5:
        case 0:
            return render_calls((ToolCall(call.name, {**call.arguments, first: f"0x{i:03X}"}),))
        case 1:
            return render_calls((ToolCall("z3ed_cli.extract", call.arguments),))
        case 2:
            return render_calls((call,))[:-20]
        case 3:
            return f"I would call {call.name} for that."
        case _:
            return render_calls((call, call))


def _part(examples: int, templates: int) -> dict:
    counts = {"mesen2.read_memory": examples // 2, "z3ed_cli.inspect": examples - examples // 2}
    return {
        "examples": examples,
        "calls": examples,
        "calls_per_tool": counts,
        "difficulty": {"simple": examples},
        "source": {"synthetic": examples},
        "templates": [f"t{i}" for i in range(templates)],
        "sha256": "ab" * 32,
    }


SPLIT = {
    "seed": 0,
    "similarity": {"median": 0.6, "maximum": 0.9},
    "parts": {"train": _part(264, 49), "validation": _part(33, 8), "test": _part(32, 16), "extra_test": _part(288, 16)},
}
AUDIT = {
    "rows_given": 264,
    "rows_kept": 264,
    "trained_share": 0.371,
    "trained_min": 31,
    "trained_max": 86,
    "tools_in_prompt": False,
}
ENVIRONMENT = {
    "python": "3.11.9",
    "system": "Linux-6.8-x86_64",
    "processor": "AMD EPYC 7B13",
    "cores": 2,
    "memory_gib": 23.5,
    "gpus": [],
    "libraries": {"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.16.0"},
    "variables": {"OMP_NUM_THREADS": "1"},
}
