"""What is rented now: the providers' lists joined with the ledger and the runs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.cloud.rented import MachineStatus, Rented
from launcher.cost.ledger import Rental
from launcher.cost.rental import Machine, MachineKey
from launcher.errors import BadInput
from launcher.reconcile import Observer, wrong_with
from launcher.rundir import list_runs
from launcher.watch import rented_rentals, running_watcher

Row = dict[str, Any]


def status(observer: Observer, runs_dir: Path) -> dict[str, Any]:
    """What is rented, as JSON values.

    `{"rentals": [...], "asked": [provider], "unreachable": {provider: reason}, "others": n, "watcher": pid or None}`.

    One row for each machine of an open rental, or for the rental where none was seen. Keys: rental, run, group,
    run_state, provider, id, status (creating, running, stopped, unknown, or `not listed`, or `not asked` where the
    provider did not answer), gpu, gpus, ip, usd_per_hour, usd (of the rental, so far), max_usd, deadline_at (seconds
    since the epoch), wrong (list of texts). What is not known is None. `others`: machines of the accounts that are not
    ours.

    The lists are asked for, and the ledger is brought up to them; nothing is ended.

    Raises:
        LauncherError: the ledger cannot be read or written.
    """
    known_to_be_open = [rental for rental in rented_rentals(observer.ledger) if rental.is_open]
    providers = {*observer.clouds.names(), *(p for rental in known_to_be_open for p in rental.providers)}
    unreachable = observer.look_at(providers)
    listed: dict[MachineKey, Rented] = {
        (provider, machine.id): machine
        for provider, machines in observer.latest.items()
        for machine in machines
        if provider not in unreachable
    }
    now = observer.clock.now()
    rentals = [rental for rental in rented_rentals(observer.ledger) if rental.is_open]
    ours = {key for rental in rented_rentals(observer.ledger) for key in rental.machines}
    watcher = running_watcher()
    states = _run_states(runs_dir)
    return {
        "rentals": [row for rental in rentals for row in _rows(rental, listed, unreachable, states, now)],
        "asked": sorted(providers - unreachable.keys()),
        "unreachable": unreachable,
        "others": sum(1 for key, m in listed.items() if key not in ours and m.status != MachineStatus.GONE),
        "watcher": None if watcher is None else watcher.pid,
    }


def _rows(
    rental: Rental,
    listed: Mapping[MachineKey, Rented],
    unreachable: Mapping[str, str],
    states: Mapping[str, str],
    now: float,
) -> list[Row]:
    wrong = wrong_with(rental, now)
    shared: Row = {
        "rental": rental.name,
        "run": rental.first.run_id,
        "group": rental.first.group,
        "run_state": states.get(rental.first.run_id) or states.get(rental.first.group),
        "usd": rental.usd(now),
        "max_usd": rental.newest.max_usd,
        "deadline_at": rental.newest.deadline_at,
        "wrong": wrong,
    }
    machines = [_machine(machine, listed, unreachable) for machine in rental.present]
    return [shared | machine for machine in machines or [_no_machine(rental, unreachable)]]


def _machine(machine: Machine, listed: Mapping[MachineKey, Rented], unreachable: Mapping[str, str]) -> Row:
    shown = listed.get((machine.provider, machine.instance_id))
    not_shown = "not asked" if machine.provider in unreachable else "not listed"
    return {
        "provider": machine.provider,
        "id": machine.instance_id,
        "status": not_shown if shown is None else str(shown.status),
        "gpu": shown and shown.gpu,
        "gpus": shown and shown.gpus,
        "ip": shown and shown.ip,
        "usd_per_hour": machine.usd_per_hour,
    }


def _no_machine(rental: Rental, unreachable: Mapping[str, str]) -> Row:
    provider = rental.newest.provider
    row: Row = dict.fromkeys(("id", "gpu", "gpus", "ip"))
    status = "not asked" if provider in unreachable else "not listed"
    return row | {"provider": provider, "status": status, "usd_per_hour": rental.spends_usd_per_hour}


def _run_states(runs_dir: Path) -> dict[str, str]:
    """The state of every run, and the states in a group; a broken folder has none."""
    states: dict[str, str] = {}
    groups: dict[str, set[str]] = {}
    for folder in list_runs(runs_dir):
        try:
            record = folder.read_record()
        except BadInput:
            continue
        states[record.id] = str(record.state)
        groups.setdefault(record.group, set()).add(str(record.state))
    return {group: ", ".join(sorted(found)) for group, found in groups.items()} | states
