"""The phases around training that do not depend on its speed: machine, packages, weights, saves, tear-down.

Low, middle and high are the 10th, 50th and 90th percentile. Few of them are published for these providers; each says
where it comes from, `assumed` where nobody wrote it down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.cost.offer import Provider
from launcher.cost.spread import Spread
from launcher.cost.workload import Workload

Term = tuple[Spread, str]

# Seconds from the request to a shell. SkyPilot's own set-up (about a minute) is in them.
_PROVISIONING: Mapping[Provider, tuple[tuple[float, float, float], str]] = {
    "lambda": ((180, 300, 720), "assumed around one log: 210 s to a node (SkyPilot issue 3880)"),
    "runpod": ((75, 150, 420), "assumed around users' 3 minutes, 1 with an image (SkyPilot issue 3334)"),
    "vast": ((90, 240, 900), "assumed; hosts differ, and some fail and are replaced"),
}
# torch with its CUDA libraries is about 3.5 GB of wheels, the rest of requirements.lock half a GB. Assumed.
_PACKAGES_GB = 4.0
_UNPACK_S = 45.0
# A mirror or a busy host may be three times slower, a warm cache of the provider twice faster. Assumed.
_PACKAGES_FACTORS = (0.5, 1.0, 3.0)
# Unknown lines: from a home host to a data centre. Assumed, as is that one download never gets more than 5 Gbit/s.
_UNKNOWN_GBIT_S = (0.3, 1.0, 4.0)
_MOST_GBIT_S = 5.0
# Share of a line's measured speed that a download from the Hub sees. Assumed.
_LINE_SHARES = (0.4, 0.8, 1.0)
# Weights from disk to GPU, quantisation included: 1 to 5 minutes for a 32B in 16 bits, 65.5 GB. Assumed.
_LOAD_GB_PER_S = (0.22, 0.5, 1.1)
# Python imports of the training stack and CUDA start-up. Assumed.
_IMPORTS_S = (15.0, 30.0, 60.0)
# First kernels are chosen and compiled, the allocator grows. Assumed.
_WARM_UP_S = (5.0, 15.0, 40.0)
# A checkpoint goes to disk at once and to the object store over the line; both assumed.
_UPLOAD_GBIT_S = (0.1, 0.5, 2.0)
_SAVE_S = (2.0, 4.0, 10.0)
_TEARDOWN_S = (5.0, 20.0, 60.0)
BYTES_PER_PUBLISHED_WEIGHT = 2  # models are published in 16 bits


@dataclass(frozen=True)
class FixedTimes:
    """Phases before and after the computing ones, in order, each with its source."""

    before: Mapping[str, Term]
    after: Mapping[str, Term]

    def warm_up_plus(self, seconds: float) -> Spread:
        """The probe: first kernels, and so many seconds of steps."""
        low, mid, high = _WARM_UP_S
        return Spread.from_quantiles(low + seconds, mid + seconds, high + seconds)


def fixed_times(
    workload: Workload, saves: int, checkpoint_gib: float, provider: Provider, download_gbit_s: float | None
) -> FixedTimes:
    """The phases of one job. On an own machine nothing is provisioned, installed or torn down."""
    weights_gb = BYTES_PER_PUBLISHED_WEIGHT * workload.architecture.parameters / 1e9
    line = "unknown line, assumed 1 Gbit/s" if download_gbit_s is None else "offer's line"
    own: Term = (Spread(0.0), "own machine")
    before: dict[str, Term] = {
        "provisioning": own if provider == "own" else _provisioning(provider),
        "environment": own if provider == "own" else (_environment(download_gbit_s), "assumed: 4 GB of packages"),
        "model download": (_download(weights_gb, download_gbit_s), line),
        "load": (_load(weights_gb), "assumed: 0.5 GB/s and imports"),
    }
    after: dict[str, Term] = {
        "checkpoints": (_checkpoints(saves, checkpoint_gib), "assumed: 0.5 Gbit/s upload"),
        "teardown": own if provider == "own" else (Spread.from_quantiles(*_TEARDOWN_S), "assumed"),
    }
    return FixedTimes(before, after)


def _provisioning(provider: Provider) -> Term:
    seconds, source = _PROVISIONING[provider]
    return Spread.from_quantiles(*seconds), source


def _environment(gbit_s: float | None) -> Spread:
    download = _PACKAGES_GB * 8 / (_UNKNOWN_GBIT_S[1] if gbit_s is None else min(gbit_s, _MOST_GBIT_S))
    return Spread.from_quantiles(*_PACKAGES_FACTORS).times(download + _UNPACK_S)


def _download(gigabytes: float, gbit_s: float | None) -> Spread:
    if gbit_s is None:
        slow, usual, fast = _UNKNOWN_GBIT_S
    else:
        slow, usual, fast = (share * min(gbit_s, _MOST_GBIT_S) for share in _LINE_SHARES)
    return Spread.from_quantiles(8 / fast, 8 / usual, 8 / slow).times(gigabytes)


def _load(gigabytes: float) -> Spread:
    rates = reversed(_LOAD_GB_PER_S)
    return Spread.from_quantiles(*(s + gigabytes / rate for s, rate in zip(_IMPORTS_S, rates, strict=True)))


def _checkpoints(saves: int, gib: float) -> Spread:
    if not saves:
        return Spread(0.0)
    gigabits = gib * 2**30 * 8 / 1e9
    rates = reversed(_UPLOAD_GBIT_S)
    return Spread.from_quantiles(*(s + gigabits / rate for s, rate in zip(_SAVE_S, rates, strict=True))).times(saves)
