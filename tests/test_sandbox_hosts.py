"""The sandbox's hosts and the way of unmodified programs there.

What is marked `sandbox` starts real hosts, on a network of its own: root is needed, and a machine that has root but
lacks something else fails here rather than skips.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli import app as command_line
from launcher.cloud.fetch import fetch_json
from launcher.cost.ledger import launcher_home
from launcher.errors import Refused
from launcher.sandbox import home, leftovers, redirect
from launcher.sandbox import sandbox as whole
from launcher.sandbox.doctor import Need, apt_line, missing
from launcher.sandbox.driver import HostAddress, HostFailed, HostRequest
from launcher.sandbox.hosts import LocalHosts, driver_name, shared_folders
from launcher.sandbox.image import asset, ensure_image
from launcher.sandbox.network import Network

URL = "http://10.78.78.1:8777"
NETWORK = Network(78)
OTHER_NETWORK = Network(79)
IMAGES = launcher_home() / "sandbox" / "images"  # the user's cache, also where a test has a home of its own


# --- what is missing -------------------------------------------------------------------------------------------------


def need(what: str, is_met: bool, package: str | None = None) -> Need:
    return Need(what, lambda: is_met, package, f"get {what}")


def test_doctor_names_what_is_missing_and_one_apt_line_for_all_of_it() -> None:
    lacking = missing(
        (need("ip", False, "iproute2"), need("ssh", True, "openssh-client"), need("rsync", False, "rsync"))
    )
    assert [each.what for each in lacking] == ["ip", "rsync"]
    assert apt_line(lacking) == "apt-get install -y iproute2 rsync"


def test_doctor_has_no_apt_line_for_what_apt_cannot_bring() -> None:
    assert apt_line(missing((need("root", False),))) is None
    assert apt_line([]) is None


def test_without_root_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match=r"^sandbox: root is needed[^\n]*$"):
        whole.refuse_without_needs()


def test_what_is_missing_is_refused_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "missing", lambda: [need("command rsync", False, "rsync")])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match=r"command rsync; install it: apt-get install -y rsync$"):
        whole.refuse_without_needs()


@pytest.mark.parametrize("verb", ["status", "invoice", "env"])
def test_a_sandbox_that_is_not_up_is_said_in_one_line(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCHER_HOME", str(tmp_path))
    assert command_line.run(["sandbox", verb]) == 1
    assert "launcher sandbox up starts one" in capsys.readouterr().err


# --- the way there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "", None, b"10.78.78.9", "10.78.78.1"])
def test_loopback_and_the_sandbox_are_inside(host: object) -> None:
    assert host in redirect.Inside(URL)


@pytest.mark.parametrize("host", ["10.78.79.1", "8.8.8.8", "cloud.lambda.ai", "10.78.78.1.example.org", "2001:db8::1"])
def test_everything_else_is_outside(host: str) -> None:
    assert host not in redirect.Inside(URL)


def in_sandbox(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run Python as in a shell that has entered a sandbox."""
    wheels = tmp_path / "wheels" / "0123"
    wheels.mkdir(parents=True)
    (wheels / "skypilot-0-py3-none-any.whl").touch()
    home.prepare_home(tmp_path / "home", tmp_path / "redirection", tmp_path / "wheels")
    variables = home.environment(tmp_path / "home", tmp_path / "redirection", NETWORK, URL)
    return subprocess.run(
        [sys.executable, "-c", program], env=home.as_environment(variables), capture_output=True, text=True, check=False
    )


def test_a_program_in_the_sandbox_can_neither_look_up_nor_dial_a_real_provider(tmp_path: Path) -> None:
    program = """
import socket
for host in ("cloud.lambda.ai", "192.0.2.1"):
    try:
        socket.create_connection((host, 443), timeout=1)
    except OSError as fault:
        print(fault)
try:
    socket.socket().connect(("192.0.2.1", 443))
except OSError as fault:
    print(fault)
"""
    done = in_sandbox(tmp_path, program)
    assert done.stdout.count("is outside") == 3, done.stderr


def stand_in_for_skypilot(folder: Path, module: str) -> None:
    """A package `sky` with one of the modules whose addresses are set."""
    package = folder / "sky" / "adaptors"
    package.mkdir(parents=True)
    (folder / "sky" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "runpod.py").write_text(module)


def test_addresses_that_a_module_holds_are_set_once_it_is_imported(tmp_path: Path) -> None:
    stand_in_for_skypilot(tmp_path, "_REST_BASE = 'https://rest.example.org'\nOTHER = 1\n")
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import sky.adaptors.runpod as module, inspect, os
print(module._REST_BASE, module.OTHER, os.environ["VAST_URL"], "OTHER = 1" in inspect.getsource(module))
"""
    done = in_sandbox(tmp_path, program)
    assert done.stdout.split() == [f"{URL}/runpod/v1", "1", f"{URL}/vast", "True"], done.stderr


def test_a_skypilot_without_such_an_address_fails_at_once(tmp_path: Path) -> None:
    stand_in_for_skypilot(tmp_path, "")
    done = in_sandbox(tmp_path, f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sky.adaptors.runpod")
    assert "has no _REST_BASE; the sandbox was made for SkyPilot" in done.stderr


def test_the_sandboxs_home_has_keys_of_no_account_and_every_catalog(tmp_path: Path) -> None:
    program = "from launcher.cloud.keys import find_key; print(*(find_key(p) for p in ('vast', 'lambda', 'runpod')))"
    assert in_sandbox(tmp_path, program).stdout.split() == ["sandbox"] * 3
    catalogs = tmp_path / "home/.sky/catalogs/v8"
    assert {path.parent.name for path in catalogs.rglob("vms.csv")} == {"lambda", "runpod", "vast"}
    assert "RTX4090,\"['RunPod', 'Vast']\"" in (catalogs / "common/accelerators.csv").read_text()
    assert "RTX4090,24,NVIDIA" in (catalogs / "common/metadata.csv").read_text()


def test_entering_hides_the_users_own_keys_and_survives_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAST_API_KEY", "a real key")
    variables = home.environment(tmp_path / "it's home", tmp_path / "r", NETWORK, URL)
    shell = home.as_shell(variables)
    done = subprocess.run(
        ["sh", "-c", f'{shell}\necho "$HOME"; echo "${{VAST_API_KEY-none}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(tmp_path / "it's home"), "none"]
    assert "VAST_API_KEY" not in home.as_environment(variables)


# --- the hosts' nvidia-smi -------------------------------------------------------------------------------------------


def ask_cards(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    cards = tmp_path / "gpus"
    cards.write_text(json.dumps({"name": "NVIDIA A10", "count": 2, "memory_mib": 24564}))
    program = asset("nvidia-smi").read_text(encoding="utf-8").replace("/etc/launcher-sandbox/gpus", str(cards))
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_nvidia_smi_reports_the_cards_that_were_rented(tmp_path: Path) -> None:
    asked = ask_cards(tmp_path, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    assert asked.stdout.splitlines() == ["NVIDIA A10, 24564"] * 2
    asked = ask_cards(tmp_path, "--query-gpu=index,memory.total", "--format=csv")
    assert asked.stdout.splitlines() == ["index, memory.total [MiB]", "0, 24564 MiB", "1, 24564 MiB"]
    assert ask_cards(tmp_path, "-L").stdout.count("NVIDIA A10") == 2
    assert ask_cards(tmp_path, "--query-gpu=nonsense").returncode != 0


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("A10 (24 GB)", "NVIDIA A10"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("RTX A6000", "NVIDIA RTX A6000"),
        ("RTX 4000 Ada", "NVIDIA RTX 4000 Ada"),
        ("NVIDIA L40S", "NVIDIA L40S"),
    ],
)
def test_cards_have_the_drivers_names(listed: str, name: str) -> None:
    assert driver_name(listed) == name


# --- leftovers -------------------------------------------------------------------------------------------------------


def test_only_skypilots_processes_of_that_home_are_found(tmp_path: Path) -> None:
    """A shell in the sandbox may start anything; only SkyPilot's programs are the sandbox's to end."""
    mine = {**os.environ, "HOME": str(tmp_path)}
    wait = "import time; time.sleep(60)"
    started = [
        subprocess.Popen([sys.executable, "-c", wait, "-msky.jobs.controller"], env=mine),
        subprocess.Popen([sys.executable, "-c", wait, "my own program"], env=mine),
        subprocess.Popen([sys.executable, "-c", wait, "sky.server.server"]),
    ]
    try:
        found = {process.pid for process in leftovers.skypilot_processes(tmp_path)}
        assert {process.pid for process in started} & found == {started[0].pid}
        leftovers.end(leftovers.skypilot_processes(tmp_path))
        assert [process.poll() is None for process in started] == [False, True, True]
    finally:
        for process in started:
            process.kill()
            process.wait()


# --- real hosts ------------------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed: hosts are namespaces, mounts and a bridge")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHosts]:
    """A driver on a network of its own; the image is the user's cached one. Afterwards nothing may be left."""
    assert not missing(), f"missing: {[each.what for each in missing()]}; {apt_line(missing())}"
    image = ensure_image(IMAGES, print)
    folder = tmp_path_factory.mktemp("hosts")
    leftovers.clear(NETWORK, folder)
    NETWORK.up()
    shared = shared_folders(Path(sys.prefix), Path(sys.base_prefix))
    driver = LocalHosts(image=image.root, folder=folder, network=NETWORK, shared=shared, url=URL)
    yield driver
    driver.destroy_all()
    assert leftovers.left(NETWORK, folder) == [f"link {NETWORK.bridge}"]
    leftovers.clear(NETWORK, folder)
    assert leftovers.left(NETWORK, folder) == []


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", str(path)], check=True)
    return path


def request(key: Path, user: str = "ubuntu", name: str = "sandbox-1", **other: object) -> HostRequest:
    public = (key.with_suffix(".pub").read_text(),)
    facts = {"gpu": None, "gpus": 0, "gpu_memory_mib": None, "disk_gib": 20.0, "public_keys": public} | other
    return HostRequest(user=user, internal_name=name, **facts)  # type: ignore[arg-type]


def ssh(key: Path, address: object, command: str) -> subprocess.CompletedProcess[str]:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    target = ["-i", str(key), "-p", str(address.ssh_port), f"{address.user}@{address.ip}"]  # type: ignore[attr-defined]
    return subprocess.run(
        ["ssh", *options, "-o", "ConnectTimeout=3", *target, command], capture_output=True, text=True, check=False
    )


@pytest.mark.sandbox
@needs_root
def test_a_host_has_the_rented_disk_and_cards_and_the_projects_environment(hosts: LocalHosts, key: Path) -> None:
    address = hosts.create("a", request(key, gpu="A10", gpus=2, gpu_memory_mib=24564))
    try:
        assert hosts.is_alive("a")
        done = ssh(key, address, "hostname; whoami; df -BG --output=size / | tail -1; nvidia-smi -L | wc -l")
        assert done.stdout.split() == ["sandbox-1", "ubuntu", "20G", "2"], done.stderr
        python = shlex.quote(str(Path(sys.prefix) / "bin/python"))
        done = ssh(key, address, f"{python} -c 'import pydantic; print(pydantic.VERSION)'; touch {sys.prefix}/x")
        assert done.stdout.strip() and "Read-only file system" in done.stderr
    finally:
        hosts.destroy("a")
    assert not hosts.is_alive("a")
    assert ssh(key, address, "true").returncode == 255


@pytest.mark.sandbox
@needs_root
def test_clients_in_a_host_find_the_sandbox_and_nothing_else(hosts: LocalHosts, key: Path) -> None:
    address = hosts.create("b", request(key))
    program = "import os, socket; print(os.environ['VAST_URL']); socket.create_connection(('192.0.2.1', 80))"
    try:
        done = ssh(key, address, f"~/skypilot-runtime/bin/python -c {shlex.quote(program)}; which nvidia-smi")
    finally:
        hosts.destroy("b")
    assert done.stdout.split() == [f"{URL}/vast"]
    assert "192.0.2.1 is outside" in done.stderr


@pytest.mark.sandbox
@needs_root
def test_a_container_runs_its_script_and_ends_with_it_where_that_is_its_main_program(
    hosts: LocalHosts, key: Path
) -> None:
    public = key.with_suffix(".pub").read_text().strip()
    script = f"echo '{public}' >> ~/.ssh/authorized_keys; service ssh start; echo $WORD > /word; sleep 4"
    address = hosts.create(
        "c", request(key, "root", public_keys=(), start_script=script, starts_ssh=True, environment={"WORD": "a b"})
    )
    try:
        assert address.ssh_port != 22
        assert ssh(key, address, "cat /word").stdout == "a b\n"
        deadline = time.monotonic() + 20
        while hosts.is_alive("c") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not hosts.is_alive("c")
    finally:
        hosts.destroy("c")


@pytest.mark.sandbox
@needs_root
def test_a_host_off_the_network_runs_on(hosts: LocalHosts, key: Path) -> None:
    address = hosts.create("d", request(key))
    try:
        assert hosts.cut_network("d")
        assert hosts.is_alive("d")
        assert ssh(key, address, "true").returncode == 255
    finally:
        hosts.destroy("d")
    assert not hosts.cut_network("d")


@pytest.mark.sandbox
@needs_root
def test_a_host_that_does_not_come_up_leaves_nothing(hosts: LocalHosts, key: Path) -> None:
    with pytest.raises(HostFailed, match="ended while it started"):
        hosts.create("e", request(key, user="root", start_script="exit 3", starts_ssh=True))
    assert not hosts.is_alive("e")
    hosts.destroy("e")
    assert leftovers.left(NETWORK, Path("/nowhere")) == [f"link {NETWORK.bridge}"]


@pytest.mark.sandbox
@needs_root
def test_notice_of_the_end_reaches_programs_and_leaves_the_host(hosts: LocalHosts, key: Path) -> None:
    address = hosts.create("f", request(key))
    program = "trap 'echo told > ~/told; exit' TERM; touch ~/ready; while :; do sleep 0.1; done"
    try:
        ssh(
            key,
            address,
            f"setsid sh -c {shlex.quote(program)} <&- >&- 2>&- & until [ -e ~/ready ]; do sleep 0.1; done",
        )
        hosts.announce_end("f")
        time.sleep(1)
        assert ssh(key, address, "cat ~/told").stdout == "told\n"
    finally:
        hosts.destroy("f")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[whole.Sandbox]:
    """A sandbox that is up, on a network of its own."""
    made = whole.Sandbox(tmp_path / "sandbox")
    made.folder.mkdir()
    (made.folder / "images").symlink_to(IMAGES)
    made.up(OTHER_NETWORK.number, print)
    yield made
    made.down()


def rent(sandbox: whole.Sandbox, key: Path, name: str) -> None:
    """Rent a machine of the emulated Lambda and wait for its host."""
    url = f"{OTHER_NETWORK.url}/lambda/api/v1"
    public = {"name": "mine", "public_key": key.with_suffix(".pub").read_text()}
    fetch_json(f"{url}/ssh-keys", timeout_s=10, key="x", body=public)
    order = {"region_name": "us-east-1", "instance_type_name": "cpu_4x_general", "ssh_key_names": ["mine"]}
    fetch_json(f"{url}/instance-operations/launch", timeout_s=10, key="x", body={**order, "name": name})
    deadline = time.monotonic() + 20
    while not sandbox.ask("status")["instances"][0]["ip"] and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.sandbox
@needs_root
def test_what_is_rented_is_a_host_and_down_leaves_nothing(sandbox: whole.Sandbox, key: Path) -> None:
    rent(sandbox, key, "rented")
    (instance,) = sandbox.ask("status")["instances"]
    assert (instance["name"], instance["is_alive"]) == ("rented", True)
    address = HostAddress(instance["ip"], instance["ssh_port"], instance["user"])
    assert ssh(key, address, "whoami").stdout == "ubuntu\n"
    with pytest.raises(Refused, match="is up in"):
        sandbox.up(OTHER_NETWORK.number, print)
    with pytest.raises(Refused, match="network 79 is that of the sandbox in"):
        whole.Sandbox(sandbox.folder.parent / "another").up(OTHER_NETWORK.number, print)
    assert sandbox.down() == []
    assert not (sandbox.folder / "hosts").exists()


@pytest.mark.sandbox
@needs_root
def test_after_a_killed_cloud_down_leaves_nothing(sandbox: whole.Sandbox, key: Path) -> None:
    """The hosts of a killed cloud run on: they are found by the names of their namespaces."""
    rent(sandbox, key, "orphan")
    running = sandbox.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    assert OTHER_NETWORK.processes()
    assert sandbox.down() == []
    assert str(sandbox.folder) not in Path("/proc/mounts").read_text()
    assert not (sandbox.folder / "hosts").exists()
    assert sandbox.running() is None


@pytest.mark.sandbox
@needs_root
def test_up_clears_what_a_killed_one_left(sandbox: whole.Sandbox, key: Path) -> None:
    rent(sandbox, key, "orphan")
    running = sandbox.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    sandbox.up(OTHER_NETWORK.number, print)
    assert OTHER_NETWORK.processes() == []
    assert sandbox.ask("status")["instances"] == []
