"""Make the tiny base model from its seed: `python -m launcher.tinybase.pretrain --out build/tiny-base`.

Counted in steps, on one thread, from seeded streams: the same bytes on the same kind of machine. Loss on the answers
only. Matrices learn by Muon (Jordan et al. 2024), embeddings and norms by AdamW.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from launcher.models import BUILTIN_MODELS
from launcher.tinybase.corpus import MAIN, OPENING, Document, Writer, sample_documents
from launcher.tinybase.english import word_list
from launcher.tinybase.model import new_model
from launcher.tinybase.tokenizer import build_tokenizer
from launcher.train.parallel import MALLOC_ENVIRONMENT

STEPS = 5000
BATCH = 24
POOL_BATCHES = 16  # batches of documents drawn at a time and put together by length: 8 % padding instead of 28 %
OPENING_SHARE = 0.12  # of the steps, on the mixture that teaches copying
CONSTANT_SHARE = 0.4  # of the steps, before the rate falls to FINAL_RATE of itself
FINAL_RATE = 0.02
WARMUP_STEPS = 30
MUON_RATE, ADAM_RATE = 0.02, 3e-3
TOKENIZER_DOCUMENTS = 6000
SEED = 0
IGNORED = -100
REPORT_EVERY = 200

EncodedDocument = tuple[list[int], list[int]]  # token ids of prompt and answer


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
    """The batches of a training of that many steps: documents of one length together, in random order."""
    rng = random.Random(f"data-{seed}")
    writer = Writer(rng)
    for first in range(0, steps, POOL_BATCHES):
        mixture = OPENING if first < OPENING_SHARE * steps else MAIN
        pool = encode(tokenizer, [writer.document(mixture) for _ in range(POOL_BATCHES * BATCH)])
        starts = [BATCH * index for index in range(POOL_BATCHES)]
        rng.shuffle(starts)
        for start in starts[: steps - first]:
            yield collate(pool[start : start + BATCH], tokenizer.pad_token_id)


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[EncodedDocument]:
    """The token ids of each document's prompt and answer, the shortest first."""
    encode_batch = tokenizer.backend_tokenizer.encode_batch
    prompts = encode_batch([document.prompt for document in documents], add_special_tokens=False)
    answers = encode_batch([document.answer for document in documents], add_special_tokens=False)
    rows = [(prompt.ids, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
    return sorted(rows, key=lambda row: len(row[0]) + len(row[1]))


def collate(rows: Sequence[EncodedDocument], pad_token_id: int) -> Batch:
    """Pad on the right: causal attention never looks there, so no mask is needed."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    input_ids = torch.full((len(rows), length), pad_token_id)
    labels = torch.full((len(rows), length), IGNORED)
    for index, (prompt, answer) in enumerate(rows):
        input_ids[index, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return Batch(input_ids, labels)


def answer_logits(model: Qwen3ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the answers' tokens alone, (tokens, vocabulary) and (tokens,)."""
    hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    counted = labels != IGNORED
    return model.lm_head(hidden[counted]), labels[counted]


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
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int = SEED
) -> Iterator[float]:
    """Train the model in place by a plan of that many steps, yielding each step's loss; the caller may stop early."""
    torch.set_num_threads(1)
    both = optimizers(model)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in both]
    model.train()
    for step, batch in enumerate(batches(tokenizer, steps, seed)):
        for optimizer, rates in zip(both, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_factor(step, steps)
        loss = torch.nn.functional.cross_entropy(*answer_logits(model, batch))
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
    rows = encode(tokenizer, sample_documents("held-out", number))
    right = 0
    for first in range(0, number, BATCH):
        batch = collate(rows[first : first + BATCH], tokenizer.pad_token_id)
        logits, labels = answer_logits(model, batch)
        tokens_per_answer = (batch.labels[:, 1:] != IGNORED).sum(1).tolist()
        right += sum(bool(answer.all()) for answer in (logits.argmax(-1) == labels).split(tokens_per_answer))
    model.train()
    return right / number


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> str:
    """Write tokenizer and weights as a model folder, in bf16 (1.2 MB); the SHA-256 of the weights."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.eval()
    model.config.dtype = torch.bfloat16
    model.to(torch.bfloat16).save_pretrained(out)
    return weights_sha256(out)


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of a model folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Make the base, with a progress bar and a line every few hundred steps."""
    parser = argparse.ArgumentParser(description="Make the tiny base model from its seed (about twenty minutes).")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default {STEPS})")
    options = parser.parse_args()
    _restart_with_malloc_settings()
    console = Console()
    tokenizer = make_tokenizer()
    model = new_model(tokenizer, SEED)
    console.print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}, {options.steps} steps")
    losses: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("pre-training", total=options.steps)
        for loss in pretrain(model, tokenizer, options.steps):
            losses.append(loss)
            progress.update(task, advance=1, description=f"pre-training, loss {loss:.3f}")
            if len(losses) % REPORT_EVERY == 0 or len(losses) == options.steps:
                recent = losses[-REPORT_EVERY:]
                right = held_out_answers_right(model, tokenizer)
                console.print(f"step {len(losses)}: loss {sum(recent) / len(recent):.4f}, held-out answers {right:.2f}")
    digest = save(model, tokenizer, options.out)
    shipped = weights_sha256(BUILTIN_MODELS["builtin:tiny-base"])
    verdict = "the same bytes as" if digest == shipped else "not the same bytes as"
    console.print(f"{options.out}: weights {digest[:16]}..., {verdict} the shipped model")


def _restart_with_malloc_settings() -> None:
    """Start this program again with malloc's settings, which only count from the start of a process."""
    if not MALLOC_ENVIRONMENT.items() <= os.environ.items():
        os.environ.update(MALLOC_ENVIRONMENT, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        os.execv(sys.executable, [sys.executable, "-m", "launcher.tinybase.pretrain", *sys.argv[1:]])


if __name__ == "__main__":
    main()
