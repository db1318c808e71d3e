"""Every error a user can cause or meet. One base class, caught in `launcher.cli.app` alone.

To add a kind: subclass `LauncherError`, give it the exit code of the table below, and raise it where the fault is
found, with a message that names the file, the field, the value and what would be right.

Exit codes: 0 done, 1 failed, 2 bad input, 3 refused by a rule (cap, gate, check), 130 interrupted.
"""

MOST_FAULTS_SHOWN = 10


class LauncherError(Exception):
    """Something failed that the user should read as one line, without a traceback."""

    exit_code = 1


class BadInput(LauncherError):
    """What the user gave cannot be used. Carries every fault found, one line each."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        shown = self.faults[:MOST_FAULTS_SHOWN]
        if len(self.faults) > len(shown):
            shown.append(f"and {len(self.faults) - len(shown)} more")
        super().__init__("\n".join(shown))


class Refused(LauncherError):
    """The input is well-formed, but a rule (cap, gate, check) forbids to go on."""

    exit_code = 3


class Interrupted(LauncherError):
    """The user pressed Ctrl-C; everything was saved and stopped."""

    exit_code = 130
