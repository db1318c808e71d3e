"""Providers' API keys, from the environment and from the files in which the providers' own tools keep them."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from launcher.cost.offer import Provider

_LAMBDA_KEY = re.compile(r"^\s*api_key\s*=\s*(\S+)\s*$", re.MULTILINE)


def find_key(provider: Provider) -> str | None:
    """The user's key of a provider, None where there is none. To be sent to that provider, never to be shown.

    `$VAST_API_KEY`, `$LAMBDA_API_KEY` or `$RUNPOD_API_KEY`, else the file that the provider's tool and SkyPilot read.
    """
    key = os.environ.get(f"{provider.upper()}_API_KEY", "").strip() or _key_in_file(provider)
    return key or None


def _key_in_file(provider: Provider) -> str:
    home = Path.home()
    if provider == "vast":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return _read(config / "vastai" / "vast_api_key").strip() or _read(home / ".vast_api_key").strip()
    if provider == "lambda":
        match = _LAMBDA_KEY.search(_read(home / ".lambda_cloud" / "lambda_keys"))
        return match[1] if match else ""
    if provider == "runpod":
        return _runpod_key(_read(home / ".runpod" / "config.toml"))
    return ""


def _runpod_key(config: str) -> str:
    try:
        profile = tomllib.loads(config).get("default", {})
    except tomllib.TOMLDecodeError:
        return ""
    key = profile.get("api_key", "") if isinstance(profile, dict) else ""
    return key.strip() if isinstance(key, str) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
