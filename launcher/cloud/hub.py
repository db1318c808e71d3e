"""What Hugging Face's API says of a base model: its revision, the size of its weights, and whether we may fetch it.

Endpoints as huggingface_hub 1.16 asks them (`HfApi.model_info` with `files_metadata`, `HfApi.auth_check`).
`$HF_ENDPOINT` puts a mirror in its place, `$HF_TOKEN` is sent where it is set, as everywhere in that library.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from launcher.cloud.fetch import SourceFailed, fetch, fetch_json
from launcher.cost.offer import positive_number

URL = "https://huggingface.co"
# What `from_pretrained` loads, in this order of preference; other files of weights are copies in other formats.
_WEIGHTS = (re.compile(r"model[^/]*\.safetensors"), re.compile(r"pytorch_model[^/]*\.bin"))


@dataclass(frozen=True)
class HubModel:
    """A model as the hub has it. commit: of the revision asked for. weights_gib: None where no sizes are told.

    is_gated: its licence must be accepted. may_fetch: its files are open to this token, or to everybody.
    """

    commit: str
    weights_gib: float | None
    is_gated: bool
    may_fetch: bool


def ask_hub(model_id: str, revision: str, timeout_s: float) -> HubModel:
    """Ask for a model at a revision: a branch, a tag or a commit.

    Raises:
        SourceFailed: no usable answer; its status is 401 or 404 where there is no such model or revision for us.
    """
    base = (os.environ.get("HF_ENDPOINT") or URL).rstrip("/")
    url = f"{base}/api/models/{quote(model_id)}"
    token = os.environ.get("HF_TOKEN", "").strip() or None
    answer = fetch_json(f"{url}/revision/{quote(revision, safe='')}?blobs=true", timeout_s=timeout_s, key=token)
    commit = answer.get("sha")
    if not isinstance(commit, str) or not commit:
        raise SourceFailed("the answer names no commit")
    return HubModel(
        commit, _weights_gib(answer.get("siblings")), bool(answer.get("gated")), _may_fetch(url, token, timeout_s)
    )


def _may_fetch(url: str, token: str | None, timeout_s: float) -> bool:
    try:
        fetch(f"{url}/auth-check", timeout_s=timeout_s, key=token)
    except SourceFailed as fault:
        if fault.status in (401, 403):
            return False
        raise
    return True


def _weights_gib(files: Any) -> float | None:
    """GiB of the files that are loaded; None where one of them has no size, or there are none."""
    known = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    for pattern in _WEIGHTS:
        sizes = [positive_number(file.get("size")) for file in known if pattern.fullmatch(str(file.get("rfilename")))]
        if sizes:
            found = [size for size in sizes if size is not None]
            return sum(found) / 2**30 if len(found) == len(sizes) else None
    return None
