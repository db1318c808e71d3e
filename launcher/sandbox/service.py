"""The process behind `launcher sandbox up`: the emulated providers, with hosts of this machine, until it is ended.

python -m launcher.sandbox.service FOLDER NETWORK IMAGE
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from launcher.sandbox.clock import RealClock
from launcher.sandbox.cloud import SandboxCloud
from launcher.sandbox.hosts import LocalHosts, shared_folders
from launcher.sandbox.network import PORT, Network
from launcher.sandbox.server import serve


def run(folder: Path, network: Network, image: Path) -> None:
    """Serve until SIGTERM or SIGINT, then take every host away.

    Args:
        folder: of the sandbox; hosts have their disks in `hosts` below it.
        network: its bridge is there.
        image: the tree that hosts share.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    hosts = LocalHosts(
        image=image,
        folder=folder / "hosts",
        network=network,
        shared=shared_folders(Path(sys.prefix), Path(sys.base_prefix)),
        url=network.url,
    )
    # A provider never gives an id twice, and the ledger relies on it: ids go on from the time of this start.
    cloud = SandboxCloud(RealClock(), hosts, in_background=True, first_number=int(time.time()))
    server = serve(cloud, network.gateway, PORT)
    ended.wait()
    server.stop()
    hosts.destroy_all()


if __name__ == "__main__":
    run(Path(sys.argv[1]), Network(int(sys.argv[2])), Path(sys.argv[3]))
