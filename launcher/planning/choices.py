"""Words of the command line that the planner knows."""

from enum import StrEnum


class Objective(StrEnum):
    """What plans are ranked by: median dollars, median hours, or their product."""

    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    BALANCED = "balanced"
