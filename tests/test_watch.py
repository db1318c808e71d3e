"""The watcher: whatever happens between, nothing of ours stays rented, and the ledger is never below the bill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import watch as watching
from launcher.cloud.rented import MachineStatus
from launcher.cost.ledger import Ledger, LedgerEntry, LedgerEvent, Rental, default_ledger
from launcher.cost.offer import RENTED
from launcher.errors import BadInput, LauncherError
from launcher.reconcile import Observer, rental_name, rental_of
from launcher.teardown import TeardownUnconfirmed, look_again, tear_down
from launcher.watch import ensure_watcher, running_watcher, watch_once
from tests.fake_clouds import HOUR_S, FakeClouds
from tests.rental_servers import KEY, emulated

NAME = "launcher-g-1"
HEAD = "launcher-g-1-3fa2c1d0-head"


class Scene:
    """A ledger, clouds on a clock of their own, and an observer between them."""

    def __init__(self, folder: Path, clouds: FakeClouds | None = None) -> None:
        self.clouds = clouds or FakeClouds()
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.observer = Observer(self.ledger, self.clouds, self.clouds.clock)

    def intend(self, name: str = NAME, hours: float = 2.0, **changes: object) -> None:
        now = self.clouds.time_s
        fields = {"run_id": "veran-1", "group": "g", "provider": "vast", "usd_per_hour": 0.5, "max_usd": 50.0}
        fields |= {"deadline_at": now + hours * HOUR_S, "offer": "1x RTX 4090", "price_source": "live"}
        self.ledger.append(LedgerEntry(at=now, event=LedgerEvent.INTENT, rental=name, **(fields | changes)))  # type: ignore[arg-type]

    def rental(self, name: str = NAME) -> Rental:
        return next(rental for rental in self.ledger.rentals() if rental.name == name)

    def usd(self, name: str = NAME) -> float | None:
        return self.rental(name).usd(self.clouds.time_s)

    def notes(self) -> str:
        return " | ".join(entry.note for entry in self.ledger.entries())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# --- what the lists tell the ledger ----------------------------------------------------------------------------------


def test_a_machine_is_paid_for_from_the_last_list_that_did_not_have_it(scene: Scene) -> None:
    scene.intend()
    scene.clouds.wait(40)
    scene.observer.look("vast")
    before = scene.clouds.time_s
    scene.clouds.wait(0.5)
    host = scene.clouds.rent(HEAD)
    scene.clouds.wait(0.25)
    scene.observer.look("vast")
    [machine] = scene.rental().present
    assert before - 0.25 <= machine.since <= host.created_at and machine.since > before - 2
    assert machine.usd_per_hour == 0.5 and machine.price_source == "vast's list"


def test_the_price_that_counts_is_the_one_the_provider_charges(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD, usd_per_hour=28.0)
    scene.observer.look("vast")
    scene.clouds.wait(HOUR_S)
    assert scene.usd() == pytest.approx(28.0, rel=0.01)


def test_a_price_that_the_list_does_not_tell_is_the_planned_one(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD, usd_per_hour=None)
    scene.observer.look("vast")
    assert scene.rental().present[0].price_source == "live"
    scene.clouds.wait(HOUR_S)
    assert scene.usd() == pytest.approx(0.5, rel=0.01)


def test_a_creation_time_that_the_provider_tells_moves_the_start_back(scene: Scene) -> None:
    scene.intend()
    scene.observer.look("vast")
    host = scene.clouds.rent(HEAD, late_s=30.0)
    host.tells_creation = True
    for _ in range(40):
        scene.clouds.wait(1.0)
        scene.observer.look("vast")
    assert scene.rental().present[0].since == host.created_at


def test_machines_belong_to_the_longest_name_that_fits(scene: Scene) -> None:
    for name in ("launcher-g-1", "launcher-g-10", "launcher-g-1-2"):
        scene.intend(name)
    owners = {
        name: rental_of(name, scene.ledger.rentals()) for name in (HEAD, "launcher-g-10-aa-head", "launcher-g-1-2-h")
    }
    assert [rental and rental.name for rental in owners.values()] == ["launcher-g-1", "launcher-g-10", "launcher-g-1-2"]
    assert rental_of("launcher-g-2-aa-head", scene.ledger.rentals()) is None


def test_a_name_is_recognised_as_skypilot_writes_it_to_providers(scene: Scene) -> None:
    """Else the watcher would take a run's own machine for a stranger's and end it."""
    scene.intend("launcher-My_Group.v2-1")
    scene.clouds.rent("launcher-my-group-v2-1-3fa2c1d0-head")
    assert watch_once(scene.observer).ended == () and len(scene.rental("launcher-My_Group.v2-1").present) == 1


def test_a_name_that_would_not_stay_whole_is_refused() -> None:
    assert rental_name("20260108-120000-3fa2", 12) == "launcher-20260108-120000-3fa2-12"
    assert len(rental_name("g" * 37, 1)) == 48
    with pytest.raises(BadInput, match="38 characters; at most 37"):
        rental_name("g" * 38, 1)


def test_a_machine_that_vanished_is_lost_and_costs_no_more(scene: Scene) -> None:
    scene.intend()
    host = scene.clouds.rent(HEAD)
    watch_once(scene.observer)
    scene.clouds.wait(HOUR_S)
    scene.clouds.end(host)
    done = watch_once(scene.observer)
    assert any("lost" in line for line in done.wrong) and "lost" in scene.notes()
    cost = scene.usd()
    scene.clouds.wait(HOUR_S)
    assert cost == scene.usd() == pytest.approx(0.5, rel=0.01)
    assert scene.rental().is_open  # whoever launched it may create another one under its intent


def test_an_error_is_never_read_as_nothing_rented(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD)
    watch_once(scene.observer)
    before = scene.ledger.entries()
    scene.clouds.failing.add("vast")
    scene.clouds.wait(60)
    done = watch_once(scene.observer)
    assert done.failures == {"vast": "HTTP 503"} and not done.is_idle
    assert scene.ledger.entries() == before and len(scene.rental().present) == 1


def test_a_list_that_was_asked_for_before_says_nothing_about_what_came_after(scene: Scene) -> None:
    """Another process saw the machine first while this one waited for a list that did not have it yet."""
    scene.intend()
    other = Observer(scene.ledger, scene.clouds, scene.clouds.clock)
    real, scene.clouds.latency_s = scene.clouds.machines, 0.0

    def slow(provider: str) -> list[object]:
        listed = real(provider)  # type: ignore[arg-type]
        scene.clouds.machines = real  # type: ignore[method-assign]
        scene.clouds.wait(0.5)
        scene.clouds.rent(HEAD)
        other.look("vast")
        return listed

    scene.clouds.machines = slow  # type: ignore[method-assign, assignment]
    scene.observer.look("vast")
    assert len(scene.rental().present) == 1 and "lost" not in scene.notes()


def test_a_machine_that_is_not_ours_is_left_alone(scene: Scene) -> None:
    scene.clouds.rent("my-notebook")
    done = watch_once(scene.observer)
    assert done.is_idle and len(scene.clouds.there("my-")) == 1 and scene.ledger.entries() == []


# --- what is ended ---------------------------------------------------------------------------------------------------


def test_what_is_overdue_is_ended_and_confirmed(scene: Scene) -> None:
    scene.intend(hours=1.0)
    host = scene.clouds.rent(HEAD)
    watch_once(scene.observer)
    scene.clouds.wait(HOUR_S)
    done = watch_once(scene.observer)
    assert [rental.name for rental in done.ended] == [NAME] and done.is_idle
    assert host.ended_at is not None and not scene.rental().is_open
    assert scene.usd() == pytest.approx(0.5, rel=0.01)


def test_what_has_spent_its_cap_is_ended_before_its_deadline(scene: Scene) -> None:
    scene.intend(hours=100.0, max_usd=3.0)
    scene.clouds.rent(HEAD, usd_per_hour=28.0)
    watch_once(scene.observer)
    assert scene.clouds.there()
    scene.clouds.wait(0.12 * HOUR_S)
    watch_once(scene.observer)
    assert not scene.clouds.there()


def test_an_unknown_machine_is_ended_and_stands_in_the_ledger(scene: Scene) -> None:
    scene.clouds.rent("launcher-elsewhere-1-head", usd_per_hour=1.5)
    scene.clouds.rent("launcher-elsewhere-2-head", "lambda", usd_per_hour=None)
    done = watch_once(scene.observer)
    assert len(done.ended) == 2 and not scene.clouds.there()
    assert scene.usd("launcher-elsewhere-1-head") is not None
    assert scene.usd("launcher-elsewhere-2-head") is None  # its price is not known, so neither is its cost
    assert watch_once(scene.observer).ended == ()


def test_an_intent_whose_machine_never_came_is_closed_at_its_deadline_at_no_cost(scene: Scene) -> None:
    scene.intend(hours=1.0)
    watch_once(scene.observer)
    assert scene.rental().is_open
    scene.clouds.wait(HOUR_S)
    watch_once(scene.observer)
    assert not scene.rental().is_open and scene.usd() == 0.0


def test_two_under_one_name_are_named_and_both_counted(scene: Scene) -> None:
    scene.intend(hours=1.0)
    scene.clouds.rent(HEAD)
    scene.clouds.rent(HEAD)
    done = watch_once(scene.observer)
    assert any("2 machines under one name" in line for line in done.wrong) and len(scene.clouds.there()) == 2
    scene.clouds.wait(HOUR_S)
    watch_once(scene.observer)
    assert not scene.clouds.there() and scene.usd() == pytest.approx(1.0, rel=0.01)


def test_two_nodes_that_were_wanted_are_not_too_many(scene: Scene) -> None:
    scene.intend(machines=2)
    scene.clouds.rent(HEAD)
    scene.clouds.rent("launcher-g-1-3fa2c1d0-worker")
    assert watch_once(scene.observer).wrong == ()


def test_a_late_orphan_of_a_finished_rental_is_ended_and_paid_by_its_run(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD, late_s=30.0)
    assert tear_down([NAME], scene.observer)[0].usd(scene.clouds.time_s) == 0.0
    assert len(scene.clouds.there()) == 1
    ended = look_again([NAME], scene.observer)
    assert [rental.name for rental in ended] == [NAME] and not scene.clouds.there()
    assert not scene.rental().is_open and (scene.usd() or 0.0) > 0


def test_the_watcher_finds_a_late_orphan_too(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD, late_s=30.0)
    tear_down([NAME], scene.observer)
    scene.clouds.wait(60)
    watch_once(scene.observer)
    assert not scene.clouds.there() and not scene.rental().is_open


# --- teardown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "swallowed", "lost"])
def test_a_teardown_that_fails_twice_is_tried_a_third_time(scene: Scene, how: str) -> None:
    scene.intend()
    host = scene.clouds.rent(HEAD)
    scene.observer.look("vast")
    scene.clouds.wait(HOUR_S)
    scene.clouds.refusals = [how, how]
    [rental] = tear_down([NAME], scene.observer)
    assert not scene.clouds.there() and not rental.is_open
    assert (rental.usd(scene.clouds.time_s) or 0.0) >= host.usd_since_listed


def test_it_is_confirmed_only_when_the_list_says_so(scene: Scene) -> None:
    scene.intend()
    scene.clouds.rent(HEAD)
    scene.observer.look("vast")
    scene.clouds.failing.add("vast")
    with pytest.raises(TeardownUnconfirmed, match="HTTP 503") as caught:
        tear_down([NAME], scene.observer)
    assert not scene.clouds.there()  # the request was made all the same
    assert scene.rental().is_open
    [line] = caught.value.lines
    assert all(part in line for part in ("vast id0", NAME, "0.50 usd/h", "vastai destroy instance id0"))
    scene.clouds.failing.clear()
    assert not tear_down([NAME], scene.observer)[0].is_open


def test_what_cannot_be_ended_is_named_with_the_way_out(scene: Scene) -> None:
    scene.clouds.providers = ["runpod"]
    scene.intend(provider="runpod")
    scene.clouds.rent(HEAD, "runpod")
    scene.observer.look("runpod")
    scene.clouds.refusals = ["refused"] * 50
    with pytest.raises(TeardownUnconfirmed) as caught:
        tear_down([NAME], scene.observer)
    assert "runpodctl remove pod id0" in str(caught.value) and scene.rental().is_open
    assert [what for what, _ in scene.clouds.calls].count("terminate") >= 3


def test_several_rentals_end_at_once_and_each_for_itself(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.intend(f"launcher-g-{number}", provider="lambda" if number == 2 else "vast")
        scene.clouds.rent(f"launcher-g-{number}-aa-head", "lambda" if number == 2 else "vast")
    watch_once(scene.observer)
    scene.clouds.failing.add("lambda")
    with pytest.raises(TeardownUnconfirmed) as caught:
        tear_down([f"launcher-g-{number}" for number in (1, 2, 3)], scene.observer)
    assert len(caught.value.lines) == 1 and "launcher-g-2" in caught.value.lines[0]
    assert [rental.is_open for rental in scene.ledger.rentals()] == [False, True, False]


def test_a_machine_that_terminates_still_is_gone(scene: Scene) -> None:
    scene.intend()
    host = scene.clouds.rent(HEAD)
    scene.observer.look("vast")
    host.status = MachineStatus.GONE
    assert not tear_down([NAME], scene.observer)[0].is_open


# --- any interleaving ------------------------------------------------------------------------------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("launch"), st.sampled_from(["fine", "lost reply", "late", "twice", "nothing", "elsewhere"])),
    st.tuples(st.just("unknown"), st.sampled_from(["vast", "lambda"])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 600.0, 4000.0])),
    st.tuples(st.just("poll"), st.sampled_from(["vast", "lambda"])),
    st.tuples(st.just("dies"), st.integers(0, 5)),
    st.tuples(st.just("refusals"), st.lists(st.sampled_from(["done", "lost", "refused", "swallowed"]), max_size=6)),
    st.tuples(st.just("outage"), st.sampled_from(["vast", "lambda", ""])),
    st.tuples(st.just("down"), st.integers(0, 5)),
    st.tuples(st.just("watch"), st.none()),
)


def act(scene: Scene, observers: list[Observer], action: str, what: object) -> None:
    """One thing that may happen, to clouds, launcher or watcher."""
    clouds, rentals = scene.clouds, [rental.name for rental in scene.ledger.rentals()]
    if action == "launch":
        name = f"launcher-g-{len(scene.ledger.entries())}"
        scene.intend(name, hours=1.0)
        provider = "lambda" if what == "elsewhere" else "vast"
        for _ in range({"twice": 2, "nothing": 0}.get(str(what), 1)):
            clouds.rent(f"{name}-aa-head", provider, late_s=30.0 if what == "late" else 0.0)  # type: ignore[arg-type]
        if what in ("fine", "twice"):
            observers[0].look_at(["vast"])
    elif action == "unknown":
        clouds.rent(f"launcher-x-{len(clouds.hosts)}", what)  # type: ignore[arg-type]
    elif action == "wait":
        clouds.wait(what)  # type: ignore[arg-type]
    elif action == "poll":
        observers[0].look_at([what])  # type: ignore[list-item]
    elif action == "dies" and clouds.there():
        clouds.end(clouds.there()[what % len(clouds.there())])  # type: ignore[operator]
    elif action == "refusals":
        clouds.refusals = list(what)  # type: ignore[call-overload]
    elif action == "outage":
        clouds.failing = {str(what)} - {""}
    elif action == "down" and rentals:
        with contextlib.suppress(TeardownUnconfirmed):
            tear_down([rentals[what % len(rentals)]], observers[0])  # type: ignore[operator]
    elif action == "watch":
        watch_once(observers[1])


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=120, deadline=None
)
@given(actions=st.lists(ACTIONS, max_size=14))
def test_in_the_end_nothing_is_left_and_the_ledger_is_never_below_the_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, actions: list[tuple[str, object]]
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of lines, none of which must survive the machine
    scene = Scene(tmp_path)
    scene.ledger.path.unlink(missing_ok=True)
    # The launcher and the watcher are two processes: each knows only what it saw itself and what the ledger says.
    observers = [Observer(scene.ledger, scene.clouds, scene.clouds.clock) for _ in range(2)]
    for action, what in actions:
        act(scene, observers, action, what)

    scene.clouds.failing.clear()
    scene.clouds.refusals.clear()
    scene.clouds.wait(2 * HOUR_S)  # every deadline has passed, and every late machine is listed
    for _ in range(4):
        last = watch_once(observers[1])
        scene.clouds.wait(30)

    assert scene.clouds.there() == [] and last.is_idle and not last.unconfirmed
    for rental in scene.ledger.rentals():
        assert not rental.is_open
        hosts = [h for h in scene.clouds.hosts if h.id in {key[1] for key in rental.machines}]
        usd = rental.usd(scene.clouds.time_s)
        assert usd is not None and usd >= sum(h.usd_since_listed for h in hosts) - 1e-9, rental
    recorded = {key[1] for rental in scene.ledger.rentals() for key in rental.machines}
    assert {host.id for host in scene.clouds.hosts if host.listed_at is not None} <= recorded


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody to ask, so that a watcher of these tests never leaves this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "LAUNCHER_SANDBOX", *(f"{provider.upper()}_API_KEY" for provider in RENTED)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def end_watcher(own_home: Path) -> Iterator[None]:
    yield
    running = running_watcher()
    if running is not None:
        process = psutil.Process(running.pid)
        process.kill()
        process.wait()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        if holds():
            return True
        time.sleep(0.02)
    return False


def start_watch(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launcher", "watch", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("no_keys", "end_watcher")
def test_one_watcher_is_started_and_found_again(own_home: Path) -> None:
    assert running_watcher() is None
    pid = ensure_watcher()
    assert pid != os.getpid() and ensure_watcher() == pid
    assert os.getsid(pid) != os.getsid(0)  # neither Ctrl-C here nor a closed terminal ends it
    second = start_watch()
    assert second.wait(30) == 1 and f"process {pid} watches already" in second.communicate()[1]
    assert within(10, lambda: "watching every 30 s" in (own_home / "watch.log").read_text())


@pytest.mark.usefixtures("no_keys", "end_watcher")
def test_a_watcher_that_lacks_a_key_does_not_count_for_that_provider() -> None:
    ensure_watcher()
    with pytest.raises(LauncherError, match="no key for runpod, so nothing is rented there"):
        ensure_watcher(["runpod"])


@pytest.mark.usefixtures("no_keys", "end_watcher")
def test_ctrl_c_ends_it_cleanly_and_the_next_one_starts() -> None:
    first = start_watch("--interval", "1s")
    assert within(30, lambda: running_watcher() is not None)
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    shown = first.communicate()[1]
    assert "not watched from here any more" in shown and "Traceback" not in shown
    assert running_watcher() is None
    assert ensure_watcher() != first.pid


@pytest.mark.usefixtures("no_keys", "end_watcher")
def test_the_process_ends_what_is_overdue_with_nobody_else_left(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth layer alone: no launch, no node, no deadline process; a ledger line and the provider's list."""
    with emulated() as clouds:
        for provider in RENTED:
            monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
            monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", f"{clouds.url}/{provider}")
        now = time.time()
        default_ledger().append(
            LedgerEntry(now - 7200, LedgerEvent.INTENT, "r", "g", "runpod", NAME, 0.5, deadline_at=now - 3600)
        )
        clouds.rent("runpod", HEAD)
        clouds.rent("vast", "launcher-elsewhere-1-head")
        ensure_watcher(["runpod", "vast"])
        assert within(30, lambda: not any(rental.is_open for rental in default_ledger().rentals()))
        assert clouds.rented() == [] and len(default_ledger().rentals()) == 2
        assert within(10, lambda: f"{NAME}: ended, confirmed" in (own_home / "watch.log").read_text())
        assert KEY not in (own_home / "watch.log").read_text() + default_ledger().path.read_text()


def test_where_it_cannot_start_nothing_is_rented(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LauncherError, match="without it nothing is rented"):
        ensure_watcher()


def test_a_process_id_that_came_round_again_is_not_the_watcher(own_home: Path) -> None:
    own_home.mkdir(parents=True)
    created = psutil.Process().create_time()
    for content in ({"pid": os.getpid(), "created_at": created - 5, "providers": []}, {"pid": 1}, [], "x"):
        (own_home / "watch.json").write_text(json.dumps(content))
        assert running_watcher() is None


@pytest.mark.usefixtures("no_keys")
def test_an_idle_watcher_ends_unless_something_was_intended_meanwhile(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "IDLE_S", 0.0)
    rounds: list[int] = []

    def one_round(*_: object) -> None:
        """A launch writes its intent just as the watcher decides to end, and ends before the next decision."""
        rounds.append(1)
        now = time.time()
        event = LedgerEvent.INTENT if len(rounds) == 1 else LedgerEvent.CONFIRMED_GONE
        default_ledger().append(LedgerEntry(now, event, "r", "g", "vast", NAME, 0.5, deadline_at=now + 60))

    monkeypatch.setattr(watching, "_pass_after_pass", one_round)
    said: list[str] = []
    watching.watch(said.append, interval_s=0.0, until_idle=True)
    assert len(rounds) == 2 and said[-1] == "nothing is rented any more: the watcher ends"


@pytest.mark.usefixtures("no_keys")
def test_a_fault_of_its_own_is_said_and_survived(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "IDLE_S", 0.0)
    faults: list[Exception] = [LauncherError("the ledger is damaged"), ZeroDivisionError("a mistake of ours")]

    def look(observer: Observer) -> watching.Pass:
        if faults:
            raise faults.pop(0)
        return watch_once(observer)

    monkeypatch.setattr(watching, "watch_once", look)
    said: list[str] = []
    watching.watch(said.append, interval_s=0.0, until_idle=True)
    assert "the ledger is damaged" in said and any("a mistake of ours" in line for line in said)
