"""A server nobody asks is ended, with its machine; one that is asked, or still loading, is not."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.node.idle_server import FINISHED, RUNNING, Activity, IdleTimer, activity_of, parse_metrics, read_metrics
from tests.conftest import ROOT

# As vLLM writes it, shortened.
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 1.0
vllm:num_requests_waiting{engine="0",model_name="base"} 2.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="base"} 40.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a } b"} 2.0
vllm:lora_requests_info{max_lora="4"} 1.7e+09
process_start_time_seconds 1.7e+09 1700000000000
python_info nonsense
"""

# Stands for a model server: /ask is a request, /metrics says how many there were; it starts a process of its own.
STAND_IN = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

asked = 0

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += self.path == "/ask"
        text = f'vllm:num_requests_running{{model_name="base"}} 0.0\\nvllm:request_success_total {asked}.0\\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass

print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def timer() -> IdleTimer:
    return IdleTimer(idle_s=1200, start_s=2700, began_at=0.0)


def test_nobody_asks_for_twenty_minutes() -> None:
    idle = timer()
    idle.update(Activity(running=0, finished=0), 100)
    idle.update(Activity(running=0, finished=1), 500)
    idle.update(Activity(running=0, finished=1), 1600)
    assert idle.verdict(1699) is None
    assert idle.verdict(1701) == "nobody has asked it anything for 20.0 minutes"


def test_a_long_answer_is_no_idleness() -> None:
    idle = timer()
    for now in range(0, 10_000, 100):
        idle.update(Activity(running=1, finished=0), now)
        assert idle.verdict(now) is None


def test_loading_a_model_is_not_idleness_but_ends_too() -> None:
    idle = timer()
    idle.update(None, 2000)
    assert idle.verdict(2600) is None
    assert idle.verdict(2701) == "it did not come up within 45.0 minutes"


@given(st.lists(st.booleans(), max_size=60))
def test_a_server_that_stopped_answering_is_ended_as_an_idle_one(answers: list[bool]) -> None:
    idle = timer()
    idle.update(Activity(0, 7), 0)
    for now, answer in enumerate(answers, start=1):
        idle.update(Activity(0, 7) if answer else None, float(now))
    assert idle.verdict(1201) is not None


def test_vllms_metrics_are_summed_over_their_labels() -> None:
    totals = parse_metrics(METRICS)
    assert activity_of(totals, RUNNING, FINISHED) == Activity(running=3.0, finished=42.0)
    assert totals["process_start_time_seconds"] == 1.7e9


def test_a_page_without_these_metrics_is_no_answer() -> None:
    assert activity_of(parse_metrics("<html>It works!</html>"), RUNNING, FINISHED) is None


@given(st.text())
def test_whatever_a_server_says_is_read(text: str) -> None:
    activity_of(parse_metrics(text), RUNNING, FINISHED)


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int, int]]]:
    """A function that starts the stand-in under the timer: the process, the port, the pid of the server's child."""
    started: list[subprocess.Popen[str]] = []

    def start(idle_s: float) -> tuple[subprocess.Popen[str], int, int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = tmp_path / "server.py"
        program.write_text(STAND_IN, encoding="utf-8")
        command = [sys.executable, "-m", "launcher.node.idle_server", "--idle-minutes", str(idle_s / 60)]
        command += ["--poll", "0.05", "--metrics", f"http://127.0.0.1:{port}/metrics"]
        command += ["--teardown", f"echo gone > {tmp_path}/teardown", "--", sys.executable, str(program), str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, port, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_an_idle_server_is_ended_with_its_machine(serve: Callable[..., tuple], tmp_path: Path) -> None:
    process, _, child = serve(idle_s=0.2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ended the server: nobody has asked it anything" in said
    assert (tmp_path / "teardown").read_text(encoding="utf-8") == "gone\n"
    wait_until(lambda: is_gone(child), "what the server started is gone")


def test_requests_are_counted_and_a_cancelled_job_ends_the_server(serve: Callable[..., tuple], tmp_path: Path) -> None:
    process, port, child = serve(idle_s=1000)
    wait_until(lambda: read_metrics(f"http://127.0.0.1:{port}/metrics"), "the server is up")
    urllib.request.urlopen(f"http://127.0.0.1:{port}/ask", timeout=5).close()
    totals = parse_metrics(read_metrics(f"http://127.0.0.1:{port}/metrics") or "")
    assert activity_of(totals, RUNNING, FINISHED) == Activity(running=0, finished=1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    wait_until(lambda: is_gone(child), "what the server started is gone")
    assert not (tmp_path / "teardown").exists(), "who cancels a job decides on the machine"


def wait_until(condition: Callable[[], object], what: str) -> None:
    """At most half a minute, on however slow a machine."""
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, f"{what}: still not so after 30 s"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
