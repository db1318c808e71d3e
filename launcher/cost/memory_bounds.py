"""How far the memory model may be off: bounds around its expected value.

Every component is known to a share of itself. Weights, adapters, gradients and optimizer states follow from counts
(blocks round up, states differ a little between versions). Logits are known but for how many copies of them a version
makes. Temporaries of a layer, gathered shards, what the allocator cannot reuse and the context are known much less
well. How the shares were found, and how they hold for sources left out, is in docs/cost-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping

SHARES = {
    "weights": 0.02,
    "adapters": 0.02,
    "gradients": 0.02,
    "optimizer": 0.02,
    "activations": 0.5,
    "logits": 0.25,
    "dequantisation": 0.5,
    "communication": 0.5,
    "context": 0.5,
    "fragmentation": 0.5,
}
# Added above: contexts and libraries differ by a few tenths of a GiB between driver versions; setting up sharded
# weights leaves blocks behind that a short run never fills.
OFFSET_GIB = 0.3
SHARDED_OFFSET_GIB = 0.6


def bounds(components: Mapping[str, float], is_sharded: bool, factor: float = 1.0) -> tuple[float, float]:
    """Lower and upper bound of the sum of the components, GiB; all shares are multiplied by `factor`."""
    expected = sum(components.values())
    reach = factor * sum(SHARES[name] * gib for name, gib in components.items())
    return expected - reach, expected + reach + (SHARDED_OFFSET_GIB if is_sharded else OFFSET_GIB)
