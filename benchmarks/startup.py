"""Start-up of the command line: `launcher --help` against `sky --help` and against Python itself."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing import in_turn, print_machine, print_ratios, wall_seconds

ROUNDS = 5


def main() -> None:
    """Time each command `ROUNDS` times in turn, after one warm-up."""
    scripts = Path(sys.executable).parent
    commands = {
        "launcher --help": [str(scripts / "launcher"), "--help"],
        "sky --help": [str(scripts / "sky"), "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    for command in commands.values():
        wall_seconds(command)
    variants = {name: (lambda c=command: wall_seconds(c)) for name, command in commands.items()}
    print_machine()
    print_ratios("command line start-up", in_turn(variants, ROUNDS), {"sky --help": 0.25}, ours="launcher --help")


if __name__ == "__main__":
    main()
