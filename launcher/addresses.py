"""Where notices go: an address as one URL, read once, and shown without what is secret in it.

- `https://...`, `http://...`: a webhook. JSON is posted there, with the text as Slack, Discord and others show it.
- `ntfys://[user:password@]host/topic`, `ntfy://...`, `https://ntfy.sh/topic`: a topic of an ntfy server.
- `smtps://user:password@host[:port]/?to=a@b.c`, `smtp://...`: mail over TLS; `smtp` begins in the clear, asks for TLS.

A path, a password and a query may each be the secret that lets anybody post, so none of them is ever shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from launcher.faults import printable

Kind = Literal["webhook", "ntfy", "mail"]
_KINDS: dict[str, Kind] = {
    "https": "webhook",
    "http": "webhook",
    "ntfys": "ntfy",
    "ntfy": "ntfy",
    "smtps": "mail",
    "smtp": "mail",
}
SCHEMES = tuple(_KINDS)
# smtps: RFC 8314, 3.3; smtp: the submission port, RFC 6409, 3.1.
_MAIL_PORTS = {"smtps": 465, "smtp": 587}
_PUBLIC_NTFY = "ntfy.sh"
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")  # what ntfy's server takes as a topic
_MAILBOX = re.compile(r"[^@\s,<>]+@[^@\s,<>]+")


@dataclass(frozen=True)
class Address:
    """One place notices go to.

    `url`: what a webhook or an ntfy server is asked at, without user and password. `port` and `is_encrypted` count for
    mail: encrypted from the first byte (`smtps`). `topic` is ntfy's; `sender` and `recipients` are mail's.
    """

    text: str
    kind: Kind
    host: str
    url: str = ""
    topic: str = ""
    user: str = ""
    password: str = ""
    port: int = 0
    is_encrypted: bool = True
    sender: str = ""
    recipients: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The address for people and logs, without anything that may be secret."""
        return mask(self.text)

    def __repr__(self) -> str:
        # A dataclass's own repr would carry the password into a traceback or a log.
        return f"Address({self.shown})"


def mask(text: str) -> str:
    """The scheme and the host of an address; everything else in it may be a secret."""
    try:
        parts = urlsplit(text)
        scheme, host = parts.scheme, parts.hostname
    except ValueError:
        scheme, host = "", None
    return printable(f"{scheme}://{host}/...") if scheme in SCHEMES and host else "(not shown)"


def parse_address(text: str) -> Address:
    """An address from its URL.

    Raises:
        ValueError: it is none; the message never holds the URL, only what would be right.
    """
    if not text.isprintable() or " " in text:
        raise ValueError("an address without spaces and line breaks is needed")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("an address such as https://host/path is needed; host or port cannot be read") from None
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        raise ValueError(f"an address that begins with {', '.join(f'{name}://' for name in SCHEMES)} is needed")
    if not parts.hostname:
        raise ValueError(f"{parts.scheme}: the host is missing")
    if kind == "mail":
        return _mail(text, parts, port)
    if kind == "ntfy" or parts.hostname == _PUBLIC_NTFY:
        return _ntfy(text, parts, port)
    if parts.username or parts.password:
        raise ValueError("a webhook has its secret in the path; user:password@ is for ntfy and mail")
    return Address(text, "webhook", parts.hostname, url=text)


def _ntfy(text: str, parts: SplitResult, port: int | None) -> Address:
    host, topic = parts.hostname or "", parts.path.strip("/")
    if not _TOPIC.fullmatch(topic):
        raise ValueError("ntfy: a topic of letters, digits, '-' and '_' is needed after the host, 64 at most")
    scheme = "http" if parts.scheme in ("ntfy", "http") else "https"
    return Address(
        text,
        "ntfy",
        host,
        url=f"{scheme}://{_bracketed(host)}{f':{port}' if port else ''}/",
        topic=topic,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def _mail(text: str, parts: SplitResult, port: int | None) -> Address:
    query = parse_qs(parts.query)
    unknown = sorted(set(query) - {"to", "from"})
    if unknown:
        raise ValueError(f"mail: {len(unknown)} unknown field(s) after '?'; to and from are known")
    recipients = tuple(name.strip() for value in query.get("to", []) for name in value.split(","))
    user = unquote(parts.username or "")
    senders = query.get("from", [user if "@" in user else recipients[0]] if recipients else [])
    if not recipients or not all(_MAILBOX.fullmatch(name) for name in (*recipients, *senders)):
        raise ValueError("mail: ?to=name@host is needed (several with commas; &from=name@host if it is another)")
    return Address(
        text,
        "mail",
        parts.hostname or "",
        user=user,
        password=unquote(parts.password or ""),
        port=port or _MAIL_PORTS[parts.scheme],
        is_encrypted=parts.scheme == "smtps",
        sender=senders[0],
        recipients=recipients,
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
