"""Newer price catalogs, from where SkyPilot hosts them to where it keeps them, by its own rules.

A catalog is downloaded when there is none or when it is seven hours old; one that was written by hand (no `.md5` beside
it, or another content) is never touched. SkyPilot itself never renews vast.ai's after the first download.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.cloud.fetch import SourceFailed, fetch
from launcher.cost.catalogs import SCHEMA, catalog_path, checksum_path, parse_catalog
from launcher.cost.ledger import launcher_home
from launcher.cost.offer import Provider
from launcher.errors import BadInput

HOSTS = (
    "https://raw.githubusercontent.com/skypilot-org/skypilot-catalog/master/catalogs",
    "https://skypilot-catalog.s3.us-east-1.amazonaws.com/catalogs",
)
PULL_AFTER_S = 7 * 3600.0
RETRY_AFTER_S = 3600.0
LOCK_TIMEOUT_S = 1.0


def is_due(provider: Provider, now: float, pull_after_s: float = PULL_AFTER_S) -> bool:
    """Whether the catalog should be downloaded, `now` in seconds since the epoch."""
    path, checksum = catalog_path(provider), checksum_path(provider)
    try:
        if not path.exists():
            return True
        if not checksum.exists() or now - checksum.stat().st_mtime < pull_after_s:
            return False
        return checksum.read_bytes().strip() == _md5(path.read_bytes()).encode()
    except OSError:
        return False  # where nothing can be read, nothing is to be replaced


def failed_lately(now: float) -> bool:
    """Whether a download failed within the last hour: then nobody waits for the next one unasked."""
    try:
        return now - _failure_mark().stat().st_mtime < RETRY_AFTER_S
    except OSError:
        return False


def mark_failure(failed: bool) -> None:
    """Remember, or forget, that a download has failed."""
    mark = _failure_mark()
    try:
        if failed:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
    except OSError:
        return  # a home that cannot be written costs a few seconds of waiting, no more


def refresh_catalog(provider: Provider, timeout_s: float) -> None:
    """Download a provider's catalog and put it in the place of the old one.

    `$LAUNCHER_CATALOG_URL` names another host than SkyPilot's, or several, separated by spaces.

    Raises:
        SourceFailed: no host answered with a price catalog, or it could not be written.
    """
    content = _download(provider, timeout_s)
    path, checksum = catalog_path(provider), checksum_path(provider)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(checksum.with_name("vms.csv.lock"), timeout=LOCK_TIMEOUT_S):
            partial = path.with_name(f".vms.csv.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(path)
            checksum.write_text(_md5(content), encoding="utf-8")
    except Timeout:
        return  # SkyPilot is about to do the same
    except OSError as fault:
        raise SourceFailed(f"{path} cannot be written ({fault.strerror})") from None


def _download(provider: Provider, timeout_s: float) -> bytes:
    reason = SourceFailed("no host")
    for host in (os.environ.get("LAUNCHER_CATALOG_URL") or " ".join(HOSTS)).split():
        try:
            content = fetch(f"{host.rstrip('/')}/{SCHEMA}/{provider}/vms.csv", timeout_s=timeout_s)
            if not parse_catalog(content.decode("utf-8"), host, provider, "catalog", None).offers:
                raise SourceFailed("the answer holds no offers")
            return content
        except SourceFailed as fault:
            reason = fault
        except (UnicodeDecodeError, BadInput):
            reason = SourceFailed("the answer is no price catalog")
    raise reason


def _failure_mark() -> Path:
    return launcher_home() / "catalog-download-failed"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
