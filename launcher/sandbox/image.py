"""The tree that all sandbox hosts share: built once, kept under the hash of its recipe."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from launcher.errors import LauncherError
from launcher.sandbox.home import outside_environment

SKYPILOT_EXTRAS = "remote,lambda,runpod,vast"
# Left to themselves, packages of the hosts would be newer, or older, than those that this side talks with.
PINNED = ("runpod", "vastai-sdk", "vastai")
PROGRESS = "image: "
_BUILD_WHEEL = (
    "from sky.backends import wheel_utils; folder, name = wheel_utils.build_sky_wheel(); print('WHEEL', folder, name)"
)


class ImageFailed(LauncherError):
    """The image could not be built; the message is the last that was heard and where the log lies."""


@dataclass(frozen=True)
class Image:
    """root: the tree. wheels: folder HASH/*.whl, SkyPilot's own wheel, built once, for `~/.sky/wheels`."""

    root: Path
    wheels: Path


def asset(name: str) -> Path:
    """A file for the inside of hosts, as it lies in the package."""
    return Path(str(files("launcher") / "assets" / "sandbox" / name))


def ensure_image(folder: Path, say: Callable[[str], None]) -> Image:
    """The image for this SkyPilot and this release of the system, built where it is not there yet (about 90 s, 1.2 GB).

    Raises:
        ImageFailed: a step failed; the next call goes on where it can.
    """
    recipe = _recipe()
    digest = hashlib.sha256("\n".join(f"{k}={v}" for k, v in sorted(recipe.items())).encode())
    digest.update(asset("image.sh").read_bytes())
    place = folder / digest.hexdigest()[:16]
    image = Image(place / "root", place / "wheels")
    place.mkdir(parents=True, exist_ok=True)
    done = place / "done"
    with FileLock(place / "lock"):
        if not done.exists():
            say("the image of the hosts is built once: about 90 seconds")
            _build_wheel(image.wheels, say)
            _build_tree(image, recipe, place / "log.txt", say)
            done.touch()
    return image


def _recipe() -> dict[str, str]:
    version = importlib.metadata.version
    pins = [f"skypilot[{SKYPILOT_EXTRAS}]=={version('skypilot')}", *(f"{name}=={version(name)}" for name in PINNED)]
    return {"SUITE": _suite(), "MIRROR": _mirror(_suite()), "SKY_PINS": " ".join(pins)}


def _suite() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ImageFailed("sandbox: /etc/os-release names no VERSION_CODENAME; Debian or Ubuntu is needed")
    return found[1]


def _mirror(suite: str) -> str:
    """Where this machine's own apt takes the release from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        address, codename, component = line.split()
        if (codename, component) == (suite, "main"):
            return address
    raise ImageFailed(f"sandbox: apt's sources name no mirror of {suite} main; run apt-get update, or add one")


def _build_wheel(wheels: Path, say: Callable[[str], None]) -> None:
    """SkyPilot builds the wheel it pushes to every host with pip, over the network; here once, with this side's pip."""
    say("SkyPilot's wheel")
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-c", _BUILD_WHEEL],
            env=outside_environment() | {"HOME": home},
            capture_output=True,
            text=True,
        )
        built = re.search(r"^WHEEL (\S+) (\S+)$", done.stdout, re.MULTILINE)
        if built is None:
            raise ImageFailed(f"sandbox: SkyPilot's wheel was not built: {(done.stderr or done.stdout).strip()[-600:]}")
        shutil.rmtree(wheels, ignore_errors=True)
        (wheels / built[2]).mkdir(parents=True)
        for wheel in Path(built[1]).glob("*.whl"):
            shutil.copy(wheel, wheels / built[2])


def _build_tree(image: Image, recipe: dict[str, str], log: Path, say: Callable[[str], None]) -> None:
    sources, local = _package_sources()
    certificate = next(
        (p for p in (sources.get("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt") if p and Path(p).exists()),
        os.devnull,
    )
    environment = outside_environment() | sources | recipe
    environment |= {
        "ROOT": str(image.root),
        "UV": str(Path(sys.prefix) / "bin" / "uv"),
        "WHEELS": str(image.wheels),
        "CERTIFICATE": certificate,
        "LOCAL_SOURCES": " ".join(local),
    }
    command = ["unshare", "--mount", "--propagation", "private", "bash", str(asset("image.sh"))]
    last = ""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as build,
    ):
        assert build.stdout is not None
        for line in build.stdout:
            file.write(line)
            last = line.strip() or last
            if line.startswith(PROGRESS):
                say(line.removeprefix(PROGRESS).strip())
    if build.returncode:
        raise ImageFailed(f"sandbox: the image was not built: {last} (all of it in {log})")


def _package_sources() -> tuple[dict[str, str], list[str]]:
    """What pip is configured with, in uv's words; and the folders of it that lie on this machine."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    shown = subprocess.run(command, env=outside_environment(), capture_output=True, text=True, check=False).stdout
    pip = dict(re.findall(r"^(?:global|:env:|install)\.([\w-]+)='(.*)'$", shown, re.MULTILINE))
    words = {key: value.replace("\\n", " ").split() for key, value in pip.items()}
    uv = {
        "UV_DEFAULT_INDEX": " ".join(words.get("index-url", [])),
        "UV_INDEX": " ".join(words.get("extra-index-url", [])),
        "UV_FIND_LINKS": ",".join(words.get("find-links", [])),
        "SSL_CERT_FILE": " ".join(words.get("cert", [])),
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # as make setup: the wanted version wherever it is
    }
    places = [*words.get("index-url", []), *words.get("extra-index-url", []), *words.get("find-links", [])]
    local = [Path(urlsplit(place).path) for place in places if place.startswith(("file:", "/"))]
    # An index of files is a folder `simple` whose pages point to files beside it.
    local = [path.parent if path.name == "simple" else path for path in local]
    return {name: value for name, value in uv.items() if value}, [str(path) for path in local if path.is_dir()]
