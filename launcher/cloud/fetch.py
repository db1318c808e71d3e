"""Questions to providers over HTTP: short timeouts, one plain reason for a failure, and never a key in a message."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from launcher import __version__

MOST_BYTES = 64_000_000
_STATUS = {
    401: "the key was refused (HTTP 401)",
    403: "the key was refused (HTTP 403)",
    429: "too many requests (HTTP 429)",
}

Name = TypeVar("Name")
Result = TypeVar("Result")


class SourceFailed(Exception):
    """A source gave no usable answer; the message is the reason, fit for one line of warning.

    status: the HTTP status where it answered with an error, None where it did not answer so.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key on to wherever a redirect points."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def fetch(url: str, *, timeout_s: float, key: str | None = None, body: Any = None, method: str | None = None) -> bytes:
    """What the address answers: a GET, or with a body a POST of JSON, unless another method is named.

    Raises:
        SourceFailed: no answer in time, an error status, or more than MOST_BYTES.
    """
    try:
        with _OPENER.open(_request(url, key, body, method), timeout=timeout_s) as answer:
            content: bytes = answer.read(MOST_BYTES + 1)
            missing = answer.length  # of the announced bytes; reading up to a limit does not complain
    except urllib.error.HTTPError as fault:
        fault.close()
        raise SourceFailed(_STATUS.get(fault.code, f"HTTP {fault.code}"), fault.code) from None
    except TimeoutError:
        raise SourceFailed(f"no answer within {timeout_s:g} s") from None
    except urllib.error.URLError as fault:
        late = isinstance(fault.reason, TimeoutError)
        raise SourceFailed(f"no answer within {timeout_s:g} s" if late else f"not reached ({fault.reason})") from None
    except http.client.IncompleteRead:
        raise SourceFailed("the answer was cut off") from None
    except (OSError, http.client.HTTPException) as fault:
        raise SourceFailed(f"not reached ({type(fault).__name__})") from None
    if len(content) > MOST_BYTES:
        raise SourceFailed(f"an answer of more than {MOST_BYTES:,} bytes")
    if missing:
        raise SourceFailed("the answer was cut off")
    return content


def fetch_json(
    url: str, *, timeout_s: float, key: str | None = None, body: Any = None, method: str | None = None
) -> dict[str, Any]:
    """The JSON object that the address answers; arguments and errors as for `fetch`.

    Raises:
        SourceFailed: also when the answer is no JSON object.
    """
    try:
        content = json.loads(fetch(url, timeout_s=timeout_s, key=key, body=body, method=method))
    except (ValueError, RecursionError):
        raise SourceFailed("the answer is not JSON") from None
    if not isinstance(content, dict):
        raise SourceFailed("the answer is no JSON object")
    return content


def in_parallel(tasks: Mapping[Name, Callable[[], Result]], timeout_s: float) -> dict[Name, Result | SourceFailed]:
    """Run the tasks at once; one that has not ended in time has failed, and holds up neither caller nor exit.

    The timeouts of sockets do not cover looking up a name, nor a server that sends a byte a second.
    """
    done: dict[Name, Result | Exception] = {}

    def work(name: Name, task: Callable[[], Result]) -> None:
        try:
            done[name] = task()
        except Exception as fault:
            done[name] = fault

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in tasks.items()]
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    results: dict[Name, Result | SourceFailed] = {}
    for name in tasks:
        result = done.get(name, SourceFailed(f"no answer within {timeout_s:g} s"))
        if isinstance(result, Exception) and not isinstance(result, SourceFailed):
            raise result
        results[name] = result
    return results


def _request(url: str, key: str | None, body: Any, method: str | None) -> urllib.request.Request:
    headers = {"User-Agent": f"specialist-launcher/{__version__}", "Accept": "application/json, text/csv, */*"}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    if key is not None:
        # http.client would quote the whole header in its complaint about such a key.
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise SourceFailed("the key is not one plain word")
        headers["Authorization"] = f"Bearer {key}"
    try:
        return urllib.request.Request(url, data, headers, method=method)
    except ValueError:
        raise SourceFailed(f"{url!r} is no address") from None
