"""Make the tiny base model from its seed: `python -m launcher.tinybase.pretrain --out build/tiny-base`.

Counted in steps, on one thread, from seeded streams: the same bytes on the same kind of machine. Loss on the answers
only. Matrices learn by Muon (Jordan et al. 2024), embeddings and norms by AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# glibc would give the step's buffers back to the kernel each time, a fifth of the step; it reads these at start only.
MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(128 << 20),
}

import torch  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM  # noqa: E402

from launcher.tinybase.corpus import MAIN, OPENING, Document, Writer, sample_documents, word_list  # noqa: E402
from launcher.tinybase.model import new_model  # noqa: E402
from launcher.tinybase.tokenizer import build_tokenizer  # noqa: E402

STEPS = 4000
BATCH = 24
BUCKETS = 4  # documents are drawn BUCKETS x BATCH at a time, sorted by length, and one bucket is used
OPENING_SHARE = 0.12  # of the steps, on the mixture that teaches copying
CONSTANT_SHARE = 0.6  # of the steps, before the rate falls to FINAL_RATE of itself
FINAL_RATE = 0.02
WARMUP_STEPS = 30
MUON_RATE, ADAM_RATE = 0.02, 3e-3
TOKENIZER_DOCUMENTS = 6000
SEED = 0
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both (documents, length), padded on the right; labels are IGNORED outside the answers."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def make_tokenizer(seed: int = SEED) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on generic documents and the words of the domain."""
    documents = [d.prompt + d.answer for d in sample_documents(f"tokenizer-{seed}", TOKENIZER_DOCUMENTS)]
    domain = " ".join(word_list("domain_words.txt"))
    return build_tokenizer([*documents, *[domain] * 20, *["system\nuser\nassistant\n"] * 200])


def batches(tokenizer: PreTrainedTokenizerFast, steps: int, seed: int = SEED) -> Iterator[Batch]:
    """The batches of a training of that many steps, one after another."""
    rng = random.Random(f"data-{seed}")
    writer = Writer(rng)
    for step in range(steps):
        mixture = OPENING if step < OPENING_SHARE * steps else MAIN
        pool = sorted(
            (writer.document(mixture) for _ in range(BUCKETS * BATCH)), key=lambda d: len(d.prompt + d.answer)
        )
        first = rng.randrange(BUCKETS) * BATCH
        yield collate(tokenizer, pool[first : first + BATCH])


def collate(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> Batch:
    """Tokenise and pad. Causal attention never looks right, so padding there needs no mask."""
    encode = tokenizer.backend_tokenizer.encode
    rows = [
        (encode(d.prompt, add_special_tokens=False).ids, encode(d.answer, add_special_tokens=False).ids)
        for d in documents
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), IGNORED)
    for index, (prompt, answer) in enumerate(rows):
        input_ids[index, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return Batch(input_ids, labels)


def answer_loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean negative log-likelihood of the answers' tokens; logits only where they count."""
    hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    counted = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), labels[counted])


def rate_factor(step: int, steps: int) -> float:
    """Warm-up, constant, then linearly down: the last part, with a falling rate, is worth a lot."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    done = step / steps
    return warm * (1.0 if done < CONSTANT_SHARE else max(FINAL_RATE, (1 - done) / (1 - CONSTANT_SHARE)))


def optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, planned_steps: int, seed: int = SEED
) -> Iterator[float]:
    """Train the model in place for `steps` of a plan of `planned_steps`, yielding each step's loss."""
    torch.set_num_threads(1)
    both = optimizers(model)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in both]
    model.train()
    for step, batch in zip(range(steps), batches(tokenizer, planned_steps, seed), strict=False):
        factor = rate_factor(step, planned_steps)
        for optimizer, rates in zip(both, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = answer_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield loss.item()


@torch.no_grad()
def held_out_answers_right(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, number: int = 240) -> float:
    """Share of unseen documents whose whole answer is the likeliest token by token (teacher-forced)."""
    model.eval()
    documents = sample_documents("held-out", number)
    right = 0
    for first in range(0, number, BATCH):
        batch = collate(tokenizer, documents[first : first + BATCH])
        logits = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
        labels = batch.labels[:, 1:]
        right += int(((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1).sum())
    model.train()
    return right / number


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write tokenizer and weights as a model folder, in bf16: 1.2 MB."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.eval()
    model.config.dtype = torch.bfloat16
    model.to(torch.bfloat16).save_pretrained(out)


def main() -> None:
    """Make the base, with a progress bar and a line every hundred steps."""
    parser = argparse.ArgumentParser(description="Make the tiny base model from its seed (about twenty minutes).")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default {STEPS})")
    options = parser.parse_args()
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, SEED)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    losses: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("pre-training", total=options.steps)
        for loss in pretrain(model, tokenizer, options.steps, options.steps):
            losses.append(loss)
            progress.update(task, advance=1, description=f"pre-training, loss {loss:.3f}")
            if len(losses) % 200 == 0:
                right = held_out_answers_right(model, tokenizer)
                mean = sum(losses[-200:]) / 200
                progress.console.print(f"step {len(losses)}: loss {mean:.4f}, held-out answers right {right:.2f}")
    right = held_out_answers_right(model, tokenizer)
    save(model, tokenizer, options.out)
    print(json.dumps({"steps": options.steps, "loss": sum(losses[-100:]) / 100, "held_out_answers_right": right}))


def with_fast_malloc() -> None:
    """Start this program again with malloc's settings, which only count from the start of a process."""
    if not MALLOC_ENVIRONMENT.items() <= os.environ.items():
        os.environ.update(MALLOC_ENVIRONMENT, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        os.execv(sys.executable, [sys.executable, "-m", "launcher.tinybase.pretrain", *sys.argv[1:]])


if __name__ == "__main__":
    with_fast_malloc()
    main()
