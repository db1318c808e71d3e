"""One message to one address: posted to a webhook or an ntfy topic as JSON, or mailed.

Formats: the incoming webhooks of Slack, Google Chat and Mattermost show `text`, Discord's shows `content`; ntfy takes
`topic`, `title` and `message` at its root address (docs.ntfy.sh/publish, "Publish as JSON"), and its login as `auth` in
the query ("Query param").
"""

from __future__ import annotations

import base64
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from launcher.addresses import Address
from launcher.cloud.fetch import SourceFailed, fetch
from launcher.faults import printable

MOST_CHARACTERS = 1900  # Discord refuses `content` of more than 2000 (HTTP 400)
# Receivers that are known to want one field and are not known to take others.
_ONE_FIELD = {
    "hooks.slack.com": "text",
    "chat.googleapis.com": "text",
    "discord.com": "content",
    "discordapp.com": "content",
}
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Message:
    """What is said: a title of a few words, one sentence, and the same as fields for programs."""

    title: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def send(message: Message, address: Address, timeout_s: float) -> None:
    """Send a message, once.

    Raises:
        SourceFailed: it was not taken, or not within about `timeout_s` seconds a question; never names a secret.
    """
    text = printable(message.text)[:MOST_CHARACTERS]
    if address.kind == "webhook":
        fetch(address.url, timeout_s=timeout_s, body=webhook_body(address.host, text, message.fields))
    elif address.kind == "ntfy":
        body = {"topic": address.topic, "title": printable(message.title), "message": text}
        fetch(address.url + _ntfy_login(address), timeout_s=timeout_s, body=body)
    else:
        _mail(_as_mail(message, text, address), address, timeout_s)


def webhook_body(host: str, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted to a webhook: what its receiver shows, and for one that we do not know everything there is."""
    if host in _ONE_FIELD:
        return {_ONE_FIELD[host]: text}
    return {"text": text, "content": text, **fields}


def _ntfy_login(address: Address) -> str:
    if not address.password:
        return ""
    basic = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
    return "?auth=" + base64.urlsafe_b64encode(f"Basic {basic}".encode()).decode().rstrip("=")


def _as_mail(message: Message, text: str, address: Address) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = printable(message.title)
    mail["From"] = address.sender
    mail["To"] = ", ".join(address.recipients)
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = make_msgid(domain=address.sender.rpartition("@")[2])
    known = [f"{name}: {value}" for name, value in message.fields.items() if value not in (None, "")]
    mail.set_content("\n".join([text, "", *known]))
    return mail


def _mail(mail: EmailMessage, address: Address, timeout_s: float) -> None:
    try:
        context = ssl.create_default_context()
        if address.is_encrypted:
            server: smtplib.SMTP = smtplib.SMTP_SSL(address.host, address.port, timeout=timeout_s, context=context)
        else:
            server = smtplib.SMTP(address.host, address.port, timeout=timeout_s)
        with server:
            if not address.is_encrypted:
                _begin_tls(server, address, context)
            if address.user:
                server.login(address.user, address.password)
            refused = server.send_message(mail)
    except smtplib.SMTPAuthenticationError as fault:
        raise SourceFailed(f"the mail server refused the login ({fault.smtp_code})") from None
    except smtplib.SMTPResponseException as fault:
        raise SourceFailed(f"the mail server said {fault.smtp_code}") from None
    except TimeoutError:
        raise SourceFailed(f"no answer within {timeout_s:g} s") from None
    # UnicodeError: a login or a mailbox that is not ASCII, at a server that takes no other.
    except (smtplib.SMTPException, OSError, UnicodeError) as fault:
        raise SourceFailed(f"the mail was not taken ({type(fault).__name__})") from None
    if refused:
        raise SourceFailed(f"the mail server refused {len(refused)} of {len(address.recipients)} recipients")


def _begin_tls(server: smtplib.SMTP, address: Address, context: ssl.SSLContext) -> None:
    """Go over to TLS where the server offers it; a password is never sent over a network in the clear."""
    server.ehlo_or_helo_if_needed()
    if server.has_extn("starttls"):
        server.starttls(context=context)
        server.ehlo()
    elif address.user and address.host not in _HERE:
        raise SourceFailed("the mail server offers no TLS, so the password was not sent; use smtps://")
