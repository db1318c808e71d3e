"""NF4 weights for QLoRA, and the repair that bitsandbytes needs on a CPU.

Nothing prepares the model for training beyond this, `prepare_model_for_kbit_training` least of all: it turns every
weight that is not quantised into fp32 (5 GiB on a 32B). PEFT freezes the base, and TRL lets gradients through the
embeddings under gradient checkpointing and holds the adapters of a 4-bit model in bf16, on a CPU too.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig

from launcher.errors import LauncherError


def nf4_config(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation (Dettmers et al. 2023, QLoRA, section 3).

    Args:
        compute_dtype: what the weights are dequantised to for each product. It is also the dtype the packed bytes are
            stored as, which changes nothing in one process and lets FSDP shard them: it leaves uint8 whole.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_quant_storage=compute_dtype,
    )


def repair_cpu_four_bit() -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU; to be called before the model is built.

    On CPUs with AVX512-BF16 the first forward of an evaluation repacks the weights in place, and nothing unpacks them
    for training: the gradients after it are wrong without an error, or autograd refuses. Does nothing where there is
    an accelerator, or on other CPUs.

    Raises:
        LauncherError: this version of bitsandbytes decides otherwise whether to repack.
    """
    if torch.accelerator.is_available():
        return
    import bitsandbytes.nn.modules as modules

    if not hasattr(modules, "has_avx512bf16"):
        raise LauncherError(
            "this version of bitsandbytes cannot be kept from repacking 4-bit weights on a CPU, so gradients after an "
            "evaluation could be wrong; install the version of requirements.lock"
        )
    modules.has_avx512bf16 = lambda: False
