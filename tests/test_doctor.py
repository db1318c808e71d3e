"""`launcher doctor`: the providers' and the hub's own formats over HTTP, and never 'ok' for what was not checked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.app import run
from launcher.cloud import account, hub, rentals
from launcher.cloud.fetch import SourceFailed
from launcher.cloud.hub import ask_hub
from launcher.cost.ledger import default_ledger
from launcher.cost.ledger_entry import LedgerEntry, LedgerEvent
from launcher.cost.offer import Provider
from launcher.doctor import Finding, Occasion, Verdict, examine, faults
from launcher.sandbox.clock import RealClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.driver import VirtualHosts
from launcher.sandbox.server import serve
from launcher.settings import Settings

KEY, TOKEN = "provider-key-5f3a", "hf_token_77"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "Qwen/Qwen2.5-Coder-32B-Instruct"
ALL: tuple[Provider, ...] = ("vast", "lambda", "runpod")


class World:
    """What the providers and the hub hold, and how they fail; by the first part of the path."""

    def __init__(self) -> None:
        self.credit: Any = 20.0
        self.spend_limit: Any = 80
        self.gated: Any = False
        self.licensed: set[str] = set()
        self.models = {MODEL: {"main": COMMIT, COMMIT: COMMIT}}
        self.files: Any = [
            {"rfilename": "model-00001-of-00002.safetensors", "size": 2**30},
            {"rfilename": "model-00002-of-00002.safetensors", "size": 2**29},
            {"rfilename": "original/consolidated.00.pth", "size": 2**33},
            {"rfilename": "config.json", "size": 700},
        ]
        self.failures: dict[str, tuple[int, bytes]] = {}
        self.cut_off: set[str] = set()
        self.hanging: set[str] = set()
        self.released = threading.Event()
        self.clock_ahead_s = 0.0
        self.asked: list[tuple[str, str | None]] = []

    def answer(self, path: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        name, _, rest = path.strip("/").partition("/")
        self.asked.append((path, authorization))
        if name in self.hanging:
            self.released.wait(30)
        if name in self.failures:
            return self.failures[name]
        if name == "hub":
            return self._hub(rest.partition("?")[0].split("/"), authorization)
        if authorization != f"Bearer {KEY}":
            return 401, {"error": f"bad key {authorization}"}
        if name == "runpod":
            myself = {"pods": [], "clientBalance": self.credit, "currentSpendPerHr": 0.5}
            return 200, {"data": {"myself": myself | {"spendLimit": self.spend_limit}}}
        if name == "lambda":
            return 200, {"data": []}
        is_account = rest.startswith("api/v0/users/current")
        return 200, {"credit": self.credit} if is_account else {"instances": [], "next_token": None}

    def _hub(self, parts: list[str], authorization: str | None) -> tuple[int, Any]:
        """`/api/models/OWNER/NAME/revision/REVISION`, and `.../auth-check`."""
        model = self.models.get("/".join(parts[2:4]))
        if model is None:
            return 401, {"error": "Invalid username or password."}
        if parts[4] == "auth-check":
            licensed = not self.gated or (authorization or "").removeprefix("Bearer ") in self.licensed
            return (200, {}) if licensed else (403, {"error": "Access to model is restricted"})
        if parts[5] not in model:
            return 404, {"error": "Revision Not Found"}
        return 200, {"id": MODEL, "sha": model[parts[5]], "gated": self.gated, "siblings": self.files}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    state = World()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = state.answer(
                self.path, self.headers.get("Authorization"), json.loads(content) if content else None
            )
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                is_cut = self.path.strip("/").partition("/")[0] in state.cut_off
                self.wfile.write(body[: len(body) // 2] if is_cut else body)

        do_POST = do_HEAD = do_GET

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() - state.clock_ahead_s, usegmt=True)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "LAUNCHER_SANDBOX", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for provider in ALL:
        monkeypatch.setenv(f"LAUNCHER_{provider.upper()}_URL", f"http://127.0.0.1:{server.server_port}/{provider}")
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/hub")
    monkeypatch.setattr(rentals, "RETRY_PAUSES_S", ())
    yield state
    state.released.set()
    server.shutdown()
    server.server_close()


def look(offline: bool = False, settings: Settings | None = None, **occasion: Any) -> dict[str, Finding]:
    findings = examine(Occasion(**({"providers": ALL} | occasion)), settings or Settings(), offline)
    assert len({finding.subject for finding in findings}) == len(findings)
    return {finding.subject: finding for finding in findings}


def verdicts(found: dict[str, Finding], subject: str) -> tuple[Verdict, str]:
    return found[subject].verdict, found[subject].detail


def fault_of(found: dict[str, Finding], subject: str) -> str:
    assert found[subject].verdict == Verdict.FAULT, found[subject]
    return found[subject].detail


# --- providers -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("world")
def test_all_in_order() -> None:
    found = look(worst_case_usd=15.0, usd_per_hour=2.0, models=[(MODEL, COMMIT)])
    assert not faults(list(found.values()))
    assert verdicts(found, "vast key") == (Verdict.OK, "accepted; 0 machines rented there now")
    assert verdicts(found, "runpod balance") == (Verdict.OK, "20.00 usd, the worst case is 15.00")
    assert verdicts(found, "runpod quota") == (Verdict.OK, "0.50 of 80.00 usd an hour in use")
    assert verdicts(found, "lambda clock") == (Verdict.OK, "within 2 s of the provider's")
    assert verdicts(found, f"model {MODEL}") == (Verdict.OK, f"1.5 GiB of weights; revision {COMMIT[:12]} found")


@pytest.mark.usefixtures("world")
def test_what_a_provider_does_not_tell_is_not_checked() -> None:
    found = look(worst_case_usd=15.0)
    for subject in ("lambda balance", "lambda quota", "vast quota"):
        assert found[subject].verdict == Verdict.NOT_CHECKED and "does not tell" in found[subject].detail


def test_a_refused_key_is_a_fault_that_does_not_show_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", "another-key")
    found = look()
    assert fault_of(found, "vast key") == "the key was refused (HTTP 401)"
    assert found["vast balance"].verdict == Verdict.NOT_CHECKED
    assert not any(key in line for line in map(str, found.values()) for key in (KEY, "another-key"))


def test_one_missing_key_is_a_note_all_missing_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAST_API_KEY")
    found = look()
    assert found["vast key"].verdict == Verdict.NOTE and "VAST_API_KEY" in found["vast key"].detail
    assert "vast balance" not in found and found["lambda key"].verdict == Verdict.OK
    assert "VAST_API_KEY" in fault_of(look(providers=("vast",)), "vast key")


def test_a_balance_below_the_worst_case_is_a_fault(world: World) -> None:
    world.credit = 9.5
    found = look(worst_case_usd=15.0)
    assert fault_of(found, "vast balance") == "9.50 usd; the worst case is 15.00: 5.50 usd are missing"
    assert look()["vast balance"].verdict == Verdict.OK
    world.credit = 0.0
    assert fault_of(look(), "runpod balance") == "0.00 usd"
    world.credit = None
    assert look(worst_case_usd=15.0)["vast balance"].verdict == Verdict.NOT_CHECKED


def test_an_hourly_limit_that_the_launch_would_break(world: World) -> None:
    assert "this launch takes 79.60" in fault_of(look(usd_per_hour=79.6), "runpod quota")
    world.spend_limit = None
    assert look()["runpod quota"].verdict == Verdict.NOT_CHECKED


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ((429, b"slow down"), "too many requests (HTTP 429)"),
        ((500, b""), "HTTP 500"),
        ((200, b"<html>"), "the answer is not JSON"),
        ((200, b"[]"), "the answer is no JSON object"),
        ((200, b"{}"), "the answer holds no "),
    ],
)
def test_a_provider_in_trouble_is_not_checked(world: World, failure: tuple[int, bytes], reason: str) -> None:
    world.failures = dict.fromkeys(ALL, failure)
    found = look(worst_case_usd=15.0)
    for provider in ALL:
        assert found[f"{provider} key"].verdict == Verdict.NOT_CHECKED
        assert found[f"{provider} balance"].verdict == found[f"{provider} quota"].verdict == Verdict.NOT_CHECKED
    assert any(reason in finding.detail for finding in found.values())
    assert found["vast clock"].verdict == Verdict.OK  # an error too says what time it is


def test_answers_cut_off_and_none_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rentals, account, hub):
        if hasattr(module, "TIMEOUT_S"):
            monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    monkeypatch.setattr("launcher.doctor.TIMEOUT_S", 0.1)
    world.cut_off, world.hanging = {"vast", "hub"}, {"lambda"}
    found = look(providers=("vast", "lambda"), models=[(MODEL, COMMIT)])
    assert found["vast key"].verdict == found[f"model {MODEL}"].verdict == Verdict.NOT_CHECKED
    assert verdicts(found, "lambda key") == (Verdict.NOT_CHECKED, "no answer within 0.1 s")
    assert verdicts(found, "lambda clock") == (Verdict.NOT_CHECKED, "no answer within 0.1 s")


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setenv("LAUNCHER_VAST_URL", "http://127.0.0.1:9")
    found = look(providers=("vast",))
    assert {found[f"vast {what}"].verdict for what in ("key", "balance", "clock")} == {Verdict.NOT_CHECKED}
    assert fault_of(found, "network") == "vast: not reached"
    found = look(providers=("vast", "lambda"))
    assert verdicts(found, "network") == (Verdict.NOTE, "lambda: reached; vast: not reached")


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "words"),
    [(30.0, Verdict.NOTE, "ahead of"), (-30.0, Verdict.NOTE, "behind"), (600.0, Verdict.FAULT, "ahead of")],
)
def test_a_clock_that_is_off(world: World, ahead_s: float, verdict: Verdict, words: str) -> None:
    world.clock_ahead_s = ahead_s
    clock = look(providers=("vast",))["vast clock"]
    assert clock.verdict == verdict and words in clock.detail


def test_the_clock_is_asked_for_without_a_key(world: World) -> None:
    account.clock_skew_s("vast")
    assert world.asked == [("/vast", None)]


# --- models ----------------------------------------------------------------------------------------------------------


def model(revision: str = COMMIT, name: str = MODEL) -> tuple[Verdict, str]:
    return verdicts(look(providers=("lambda",), models=[(name, revision)]), f"model {name}")


def test_a_branch_may_move(world: World) -> None:
    assert model("main") == (
        Verdict.NOTE,
        f"1.5 GiB of weights; revision 'main' may move; to pin it write model.revision: {COMMIT}",
    )


def test_a_gated_model_needs_a_token_whose_user_took_the_licence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.gated, world.licensed = "manual", {TOKEN}
    verdict, detail = model()
    assert verdict == Verdict.FAULT and f"huggingface.co/{MODEL}" in detail and "HF_TOKEN" in detail
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert model()[0] == Verdict.FAULT
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert model() == (
        Verdict.OK,
        f"1.5 GiB of weights; gated, and open to this token; revision {COMMIT[:12]} found",
    )


def test_no_such_model_or_revision(world: World) -> None:
    assert model(name="Qwen/Qwen9")[0] == Verdict.FAULT
    verdict, detail = model("v2")
    assert verdict == Verdict.FAULT and "'v2'" in detail and "HTTP 404" in detail


@pytest.mark.parametrize(("status", "words"), [(307, "renamed"), (429, "too many"), (503, "HTTP 503")])
def test_a_hub_in_trouble_is_not_checked(world: World, status: int, words: str) -> None:
    world.failures["hub"] = (status, b"{}")
    verdict, detail = model()
    assert verdict == Verdict.NOT_CHECKED and words in detail


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ([{"rfilename": "pytorch_model.bin", "size": 2**30}], 1.0),
        ([{"rfilename": "model.safetensors", "size": 2**30}, {"rfilename": "pytorch_model.bin", "size": 2**31}], 1.0),
        ([{"rfilename": "model.safetensors"}], None),
        ([{"rfilename": "model.gguf", "size": 1}, None, "x"], None),
        (None, None),
    ],
)
def test_the_size_of_the_weights_is_that_of_the_files_that_are_loaded(
    world: World, files: Any, gib: float | None
) -> None:
    world.files = files
    assert ask_hub(MODEL, COMMIT, 5.0).weights_gib == gib


def test_an_answer_without_a_commit_is_no_answer(world: World) -> None:
    world.models[MODEL]["main"] = ""
    with pytest.raises(SourceFailed, match="no commit"):
        ask_hub(MODEL, "main", 5.0)


def test_models_that_lie_here_are_not_asked_for(world: World, tmp_path: Path) -> None:
    found = look(providers=("lambda",), models=[("builtin:tiny-base", "main"), (str(tmp_path), "main")])
    assert found["model builtin:tiny-base"].verdict == Verdict.OK
    assert "no config.json" in fault_of(found, f"model {tmp_path}")
    assert not any(path.startswith("/hub") for path, _ in world.asked)


# --- this machine, limits, offline -----------------------------------------------------------------------------------


def test_disks(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look()["disk for ledger"].verdict == Verdict.OK
    monkeypatch.setattr("launcher.doctor.DISK_GIB", 1e9)
    assert "are needed" in fault_of(look(runs_dir=tmp_path / "not" / "there"), "disk for run folders")


@pytest.mark.usefixtures("world")
def test_limits_across_runs() -> None:
    entry = LedgerEntry(time.time(), LedgerEvent.INTENT, "r", "g", "vast", "a", 1.0, max_usd=15.0)
    default_ledger().append(entry)
    settings = Settings(max_usd_at_once=20)
    found = look(settings=settings, worst_case_usd=5.0)
    assert found["limits"].verdict == Verdict.OK and "15.00 usd committed at once of 20.00" in found["limits"].detail
    assert "max_usd_at_once: 20.00 usd" in fault_of(look(settings=settings, worst_case_usd=6.0), "limits")
    default_ledger().path.write_text("nonsense\n{}\n")
    assert "ledger cannot be read" in fault_of(look(), "limits")


def test_offline_asks_nobody_and_finds_nothing_of_others_in_order(world: World) -> None:
    found = look(offline=True, worst_case_usd=15.0, models=[(MODEL, COMMIT)])
    ours = {"disk for run folders", "disk for ledger", "limits"}
    assert {f.verdict for name, f in found.items() if name not in ours} == {Verdict.NOT_CHECKED}
    assert {"vast key", "runpod balance", f"model {MODEL}"} <= set(found)
    assert world.asked == []


def test_in_the_sandbox_the_emulated_providers_are_asked_without_any_real_key(monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(SandboxCloud(RealClock(), VirtualHosts()), "127.0.0.1", 0)
    try:
        monkeypatch.setenv("LAUNCHER_SANDBOX", "1")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        found = look(worst_case_usd=15.0)
    finally:
        server.stop()
    assert not faults(list(found.values()))
    for provider in ALL:
        assert verdicts(found, f"{provider} key") == (Verdict.OK, "accepted; 0 machines rented there now")
        assert found[f"{provider} clock"].verdict == Verdict.OK
    assert found["runpod balance"].verdict == Verdict.OK


# --- the command -----------------------------------------------------------------------------------------------------


def write_job(tmp_path: Path, max_usd: float) -> Path:
    path = tmp_path / "job.yaml"
    content = {
        "name": "veran", "model": {"id": MODEL, "revision": COMMIT}, "data": {"source": "builtin:specialists"},
        "budget": {"max_usd": max_usd},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs-dir", str(tmp_path / "runs")]
    assert run(["doctor", str(write_job(tmp_path, 15.0)), "--json", *runs]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["faults"] == 0
    assert {"subject": "vast balance", "verdict": "ok", "detail": "20.00 usd, the worst case is 15.00"} in answer[
        "findings"
    ]
    assert run(["doctor", str(write_job(tmp_path, 25.0)), *runs]) == 3
    said = capsys.readouterr()
    assert "5.00 usd are missing" in said.out and "error: vast balance: 20.00 usd" in said.err
    assert run(["doctor", "--max-usd", "30", "--provider", "runpod", *runs]) == 3
    assert "10.00 usd are missing" in capsys.readouterr().out
    assert run(["doctor", "--offline", "--json", *runs]) == 0
    assert {f["verdict"] for f in json.loads(capsys.readouterr().out)["findings"]} == {"ok", "not checked"}


def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--provider", "aws"]) == 2
    assert run(["doctor", "--max-usd", "nan"]) == 2
    assert "--max-usd: 'nan'" in capsys.readouterr().err
