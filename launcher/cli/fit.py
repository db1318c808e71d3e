"""Verbs that score a configuration: `fit` for memory, `speed` for tokens per second; one, or a file of cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from launcher.cli.jobs import AsJson, Preset, wide_console
from launcher.errors import BadInput

Cases = Annotated[
    Path | None, typer.Option("--cases", metavar="FILE.jsonl", help="Score a file: one JSON object a line in and out.")
]
OptionalJob = Annotated[Path | None, typer.Argument(metavar="[JOB]", help="A job file, in place of --model.")]
Model = Annotated[str | None, typer.Option("--model", help="A known model, or a folder with a config.json.")]
Gpu = Annotated[list[str] | None, typer.Option("--gpu", help="Only this GPU, such as RTX4090; several times.")]
SeqLen = Annotated[int | None, typer.Option("--seq-len", min=1, help="Tokens of the longest row.")]
MicroBatch = Annotated[int | None, typer.Option("--micro-batch", min=1, help="Rows per GPU and micro-step.")]
Method = Annotated[str | None, typer.Option("--method", help="lora, qlora or full.")]
Rank = Annotated[int | None, typer.Option("--rank", min=1, help="LoRA rank.")]
Targets = Annotated[str | None, typer.Option("--targets", help="all-linear, or module names with commas.")]
Checkpointing = Annotated[
    bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Recompute activations.")
]
Attention = Annotated[str | None, typer.Option("--attention", help="sdpa, flash or eager.")]
Optimizer = Annotated[str | None, typer.Option("--optimizer", help="adamw, adamw_fp32, adamw_8bit or paged_8bit.")]
Loss = Annotated[str | None, typer.Option("--loss", help="Loss kernel, in place of the stack's: hf, fused, chunk, ...")]
StackName = Annotated[str | None, typer.Option("--stack", help="Training stack, such as launcher, trl or axolotl.")]
Gpus = Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs the model is trained on.")]
Sharding = Annotated[str | None, typer.Option("--sharding", help="none, ddp, zero2, zero3 or fsdp.")]
Offload = Annotated[bool | None, typer.Option("--cpu-offload", help="Parameters and states in host memory.")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's verbs to the command."""
    for verb in (fit, speed):
        app.command()(verb)


def fit(
    job: OptionalJob = None,
    cases: Cases = None,
    model: Model = None,
    method: Method = None,
    rank: Rank = None,
    targets: Targets = None,
    seq_len: SeqLen = None,
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = None,
    attention: Attention = None,
    optimizer: Optimizer = None,
    loss: Loss = None,
    stack: StackName = None,
    gpus: Gpus = None,
    sharding: Sharding = None,
    cpu_offload: Offload = None,
    gpu: Gpu = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Predict peak memory per GPU and of the host, by component, and say which GPUs it fits."""
    from launcher.cost.memory import score_case

    if cases is not None:
        _score_file(cases, score_case)
        return
    fields = {
        "model": model,
        "method": method,
        "rank": rank,
        "target_modules": None if targets is None else targets if targets == "all-linear" else targets.split(","),
        "seq_len": seq_len,
        "micro_batch": micro_batch,
        "gradient_checkpointing": checkpointing,
        "attention": attention,
        "optimizer": optimizer,
        "loss": loss,
        "stack": stack,
        "gpus": gpus,
        "sharding": sharding or ("fsdp" if gpus and gpus > 1 else None),
        "cpu_offload": cpu_offload,
    }
    from launcher.planning.fit_report import fit_report, workload_from

    report = fit_report(workload_from(job, preset, fields), gpu)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_fit(report)


def speed(
    cases: Annotated[
        Path, typer.Option("--cases", metavar="FILE.jsonl", help="Configurations, one JSON object a line.")
    ],
    as_json: AsJson = False,
) -> None:
    """Predict tokens per second and GPU of the configurations in a file, with the 5th and the 95th percentile."""
    from launcher.cost.speed_cases import score_case

    _score_file(cases, score_case)


def _score_file(file: Path, score: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Print one object a line for every case that can be scored; the faults of the rest come at the end.

    Raises:
        BadInput: lines that could not be used, each with its number.
    """
    from launcher.cost.cases import CaseFault, case_label, read_cases

    faults = []
    for case in read_cases(file):
        if isinstance(case, CaseFault):
            faults.append(f"{file}: line {case.line}: {case.reason}")
            continue
        try:
            typer.echo(json.dumps(score(case.raw)))
        except BadInput as fault:
            faults += [f"{file}: {case_label(case)}: {line.removeprefix('case: ')}" for line in fault.faults]
    if faults:
        raise BadInput(*faults)


def _print_fit(report: dict[str, Any]) -> None:
    console = wide_console()
    console.print(f"[bold]{report['title']}[/]", soft_wrap=True)
    parts = Table(box=None, pad_edge=False, header_style="bold")
    parts.add_column("component")
    parts.add_column("GiB per GPU", justify="right")
    for name, gib in report["components_gib"].items():
        parts.add_row(name, f"{gib:.2f}")
    parts.add_row("[bold]peak, expected[/]", f"[bold]{report['peak_gib']:.2f}[/]")
    parts.add_row("from, up to", f"{report['low_gib']:.2f} .. {report['high_gib']:.2f}")
    parts.add_row("host memory per machine", f"{report['host_gib']:.1f}")
    console.print(parts)
    cards = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("GPU", "GB", "usable GiB", "fits"):
        cards.add_column(name, justify="left" if name in ("GPU", "fits") else "right")
    for row in report["gpus"]:
        cards.add_row(
            row["gpu"], f"{row['memory_gib']:g}", f"{row['usable_gib']:.1f}", _verdict(row["fits"]) + _assumed(row)
        )
    console.print(cards)
    legend = "fits: yes, the upper bound fits; tight, only the expected value does"
    if not all(row["usable_is_measured"] for row in report["gpus"]):
        legend += "; *: nobody published what this card reports, a low share is assumed"
    console.print(legend, soft_wrap=True, style="dim")


def _verdict(fits: str) -> str:
    return {"yes": "[green]yes[/]", "tight": "[yellow]tight[/]", "no": "[red]no[/]"}[fits]


def _assumed(row: dict[str, Any]) -> str:
    return "" if row["usable_is_measured"] else " *"
