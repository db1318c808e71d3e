"""How far the memory model may be off: bounds around its expected value.

Weights, adapters, gradients and optimizer states follow from counts, so they are known to a few percent (blocks round
up, states differ a little between versions). Everything else (activations, logits, buffers, fragmentation, context) is
known much less well. The upper bound is one-sided: of 39 published runs one lies above it, and none by more than a
GPU's own reserve. How the shares were found, and how they hold for sources left out: docs/cost-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping

COUNTED = ("weights", "adapters", "gradients", "optimizer")
COUNTED_SHARE = 0.02
REST_SHARE_ABOVE = 0.5
REST_SHARE_BELOW = 0.3
# Contexts and libraries differ by a few tenths of a GiB between driver versions; setting up sharded weights leaves
# blocks behind that a short run never fills.
OFFSET_GIB = 0.3
SHARDED_OFFSET_GIB = 0.6


def bounds(components: Mapping[str, float], is_sharded: bool) -> tuple[float, float]:
    """Lower and upper bound of the sum of the components, GiB."""
    expected = sum(components.values())
    counted = sum(components[name] for name in COUNTED)
    rest = expected - counted
    low = expected - COUNTED_SHARE * counted - REST_SHARE_BELOW * rest
    offset = SHARDED_OFFSET_GIB if is_sharded else OFFSET_GIB
    return low, expected + COUNTED_SHARE * counted + REST_SHARE_ABOVE * rest + offset
