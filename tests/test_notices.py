"""Notices: in the receivers' own formats, once per run, and never in the way of a run."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.addresses import Address, parse_address
from launcher.cloud.fetch import SourceFailed
from launcher.cloud.notify import MOST_CHARACTERS, Message, send, webhook_body
from launcher.notices import Notice, NoticeKind, Notifier, cap_notice

SECRET = "T0SECRET"
WEBHOOKS = {
    "slack": f"https://hooks.slack.com/services/T0/B0/{SECRET}",
    "discord": f"https://discord.com/api/webhooks/1/{SECRET}",
    "google chat": f"https://chat.googleapis.com/v1/spaces/A/messages?key={SECRET}",
}
DONE = Notice(NoticeKind.DONE, "veran-1", usd=3.118, max_usd=15.0)


class Receiver:
    """What was posted, and how the server answers: a status for each request, the last one from then on."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.statuses = [200]
        self.cut_off = False
        self.port = 0
        self.released = threading.Event()
        self.hangs = False

    def url(self, scheme: str = "http", path: str = f"/hook/{SECRET}", login: str = "") -> str:
        return f"{scheme}://{login}127.0.0.1:{self.port}{path}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.posts.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            if state.hangs:
                state.released.wait(30)
            self.send_response(state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0])
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"o" if state.cut_off else b"ok")

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield state
    state.released.set()
    server.shutdown()
    server.server_close()


class MailServer(socketserver.ThreadingTCPServer):
    """As much of RFC 5321 and of RFC 4954 (AUTH PLAIN) as a client needs that sends one mail."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _MailSession)
        self.mails: list[tuple[list[str], Any]] = []
        self.logins: list[str] = []
        self.password = SECRET
        self.refused: set[str] = set()
        self.hangs_up_at = ""

    @property
    def port(self) -> int:
        return self.server_address[1]


class _MailSession(socketserver.StreamRequestHandler):
    server: MailServer

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        recipients: list[str] = []
        self.say("220 mail.test ESMTP")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == self.server.hangs_up_at:
                return
            if verb == "EHLO":
                self.say("250-mail.test\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                login = base64.b64decode(line.split()[2]).decode().split("\0")
                self.server.logins.append(login[1])
                self.say("235 ok" if login[2] == self.server.password else f"535 5.7.8 bad login {login[2]}")
            elif verb == "RCPT":
                refused = any(name in line for name in self.server.refused)
                recipients += [] if refused else [line.partition("<")[2].rstrip(">")]
                self.say("550 no such user" if refused else "250 ok")
            elif verb == "DATA":
                self.say("354 go on")
                content = b""
                while (row := self.rfile.readline()) != b".\r\n":
                    content += row
                mail = email.message_from_bytes(content, policy=email.policy.default)
                self.server.mails.append((recipients, mail))
                self.say("250 taken")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 ok")


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def say(address: str, text: str = "veran-1: done", timeout_s: float = 5.0) -> None:
    send(Message("launcher: veran-1: done", text, DONE.fields()), parse_address(address), timeout_s)


# --- the receivers' formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "field"),
    [(WEBHOOKS["slack"], "text"), (WEBHOOKS["discord"], "content"), (WEBHOOKS["google chat"], "text")],
)
def test_a_known_receiver_gets_the_one_field_that_it_shows(url: str, field: str) -> None:
    assert webhook_body(parse_address(url).host, "done", DONE.fields()) == {field: "done"}


def test_any_other_webhook_gets_both_and_the_fields_for_programs(receiver: Receiver) -> None:
    say(receiver.url())
    [(path, body)] = receiver.posts
    assert path == f"/hook/{SECRET}"
    assert body["text"] == body["content"] == "veran-1: done"
    assert (body["kind"], body["run"], body["usd"], body["max_usd"]) == ("done", "veran-1", 3.118, 15.0)


def test_a_text_is_one_line_that_discord_takes(receiver: Receiver) -> None:
    say(receiver.url(), "boom\n\x1b[31m" + "x" * 5000)
    [(_, body)] = receiver.posts
    assert len(body["content"]) == MOST_CHARACTERS and body["content"].isprintable()


def test_ntfy_gets_topic_title_and_message_and_the_login_as_its_server_reads_it(receiver: Receiver) -> None:
    say(receiver.url("ntfy", "/runs", f"me:{SECRET}@"))
    say(receiver.url("ntfy", "/runs"))
    (with_login, body), (without, _) = receiver.posts
    assert body == {"topic": "runs", "title": "launcher: veran-1: done", "message": "veran-1: done"}
    [auth] = parse_qs(urlsplit(with_login).query)["auth"]
    scheme, basic = base64.urlsafe_b64decode(auth + "=" * (-len(auth) % 4)).decode().split()
    assert (scheme, base64.b64decode(basic).decode()) == ("Basic", f"me:{SECRET}")
    assert (urlsplit(with_login).path, without) == ("/", "/")


def test_mail(mail_server: MailServer) -> None:
    say(f"smtp://me%40a.org:{SECRET}@127.0.0.1:{mail_server.port}/?to=x@b.org,y@c.org", "veran-1: fertig äöü")
    [(recipients, mail)] = mail_server.mails
    assert recipients == ["x@b.org", "y@c.org"] and mail_server.logins == ["me@a.org"]
    assert (mail["Subject"], mail["From"], mail["To"]) == ("launcher: veran-1: done", "me@a.org", "x@b.org, y@c.org")
    lines = mail.get_content().splitlines()
    assert lines[0] == "veran-1: fertig äöü" and "usd: 3.118" in lines and "why: " not in lines
    assert mail["Date"] and mail["Message-ID"]


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "reason"), [(401, "refused"), (404, "HTTP 404"), (429, "too many"), (302, "302")])
def test_an_error_is_one_reason_without_the_address(receiver: Receiver, status: int, reason: str) -> None:
    receiver.statuses = [status]
    with pytest.raises(SourceFailed, match=reason) as failed:
        say(receiver.url())
    assert SECRET not in str(failed.value)


def test_no_answer_in_time(receiver: Receiver) -> None:
    receiver.hangs = True
    with pytest.raises(SourceFailed, match="no answer within"):
        say(receiver.url(), timeout_s=0.05)


def test_an_answer_cut_off(receiver: Receiver) -> None:
    receiver.cut_off = True
    with pytest.raises(SourceFailed, match=r"cut off|no answer"):
        say(receiver.url(), timeout_s=0.2)


def test_nobody_there() -> None:
    for address in ("http://127.0.0.1:9/x", "smtp://127.0.0.1:9/?to=a@b.c", "smtps://127.0.0.1:9/?to=a@b.c"):
        with pytest.raises(SourceFailed, match=r"not reached|not taken"):
            say(address)


def test_a_mail_server_that_refuses_the_login_does_not_get_the_password_printed(mail_server: MailServer) -> None:
    mail_server.password = "another"
    with pytest.raises(SourceFailed, match=r"refused the login \(535\)") as failed:
        say(f"smtp://me:{SECRET}@127.0.0.1:{mail_server.port}/?to=x@b.org")
    assert SECRET not in str(failed.value) and not mail_server.mails


def test_a_mail_server_that_hangs_up_or_knows_nobody(mail_server: MailServer) -> None:
    address = f"smtp://127.0.0.1:{mail_server.port}/?to=x@b.org,y@b.org"
    mail_server.refused = {"y@b.org"}
    with pytest.raises(SourceFailed, match="1 of 2 recipients"):
        say(address)
    mail_server.refused |= {"x@b.org"}
    with pytest.raises(SourceFailed, match="not taken"):
        say(address)
    mail_server.hangs_up_at = "DATA"
    mail_server.refused = set()
    with pytest.raises(SourceFailed, match="not taken"):
        say(address)


def test_a_password_is_not_sent_over_a_network_in_the_clear(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.cloud.notify._HERE", ())  # as if the server were another machine
    with pytest.raises(SourceFailed, match="no TLS"):
        say(f"smtp://me:{SECRET}@127.0.0.1:{mail_server.port}/?to=x@b.org")
    assert mail_server.logins == []


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_sentence() -> None:
    assert DONE.text == "veran-1: done; 3.12 usd spent of 15.00"
    assert Notice(NoticeKind.STOPPED, "r", "patience").text == "r: stopped: patience"
    assert Notice(NoticeKind.PREEMPTED, "r", usd=1.0).text == "r: preempted; 1.00 usd spent"


def test_the_cap_is_told_of_at_50_80_and_100_percent() -> None:
    kinds = [notice and notice.kind for usd in (0.0, 4.9, 5.0, 7.9, 8.0, 9.99, 10.0, 12.0)
             for notice in [cap_notice("r", usd, 10.0)]]  # fmt: skip
    c50, c80, c100 = NoticeKind.CAP_50, NoticeKind.CAP_80, NoticeKind.CAP_100
    assert kinds == [None, None, c50, c50, c80, c80, c100, c100]
    assert cap_notice("r", None, 10.0) is None and cap_notice("r", 5.0, None) is None


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.floats(0.01, 100.0))
def test_more_spend_never_tells_of_a_lower_share(usd: float, more: float, cap: float) -> None:
    order = [None, NoticeKind.CAP_50, NoticeKind.CAP_80, NoticeKind.CAP_100]
    first, second = (order.index(n.kind if n else None) for n in (cap_notice("r", u, cap) for u in (usd, usd + more)))
    assert first <= second


# --- once per run, and never in the way ------------------------------------------------------------------------------

HERE = parse_address(f"https://one.example/{SECRET}")
THERE = parse_address(f"https://two.example/{SECRET}")


class Sender:
    """Counts what was sent; fails as often as it is told to, for an address."""

    def __init__(self, **failures: int) -> None:
        self.sent: list[tuple[str, str]] = []
        self.tries = 0
        self.failures = failures
        self.status: int | None = 503

    def __call__(self, notice: Notice, address: Address) -> None:
        self.tries += 1
        name = address.host.partition(".")[0]
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            raise SourceFailed("HTTP 503", self.status)
        self.sent.append((notice.key, name))


def notify(sender: Sender, *notices: Notice, addresses: tuple[Address, ...] = (HERE, THERE)) -> None:
    with Notifier(addresses, send=sender, pause=lambda _: None) as notifier:
        for notice in notices:
            notifier.notify(notice)


def test_each_notice_goes_to_each_address_once_per_run_however_often_it_is_given() -> None:
    sender = Sender()
    notify(sender, DONE, DONE)
    notify(sender, DONE)  # a launcher that was started anew
    assert sender.sent == [("done", "one"), ("done", "two")]
    notify(sender, Notice(NoticeKind.DONE, "farore-1"))
    assert len(sender.sent) == 4


def test_a_second_preemption_is_another_notice() -> None:
    sender = Sender()
    notify(sender, *(Notice(NoticeKind.PREEMPTED, "r", number=number) for number in (1, 1, 2)), addresses=(HERE,))
    assert sender.sent == [("preempted", "one"), ("preempted 2", "one")]


def test_a_failure_is_tried_again_a_little_and_holds_up_no_other_address(caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender(one=2)
    notify(sender, DONE)
    assert sender.sent == [("done", "one"), ("done", "two")] and not caplog.records
    sender = Sender(one=99)
    notify(sender, Notice(NoticeKind.STOPPED, "r"))
    assert sender.sent == [("stopped", "two")] and sender.tries == 4
    assert "stopped of r not sent to https://one.example/...: HTTP 503" in caplog.text
    assert SECRET not in caplog.text


def test_what_could_not_be_sent_is_sent_when_it_is_given_again() -> None:
    sender = Sender(one=3)
    notify(sender, DONE)
    notify(sender, DONE)
    assert sender.sent == [("done", "two"), ("done", "one")]


def test_a_wrong_address_is_not_tried_again() -> None:
    sender = Sender(one=99)
    sender.status = 404
    notify(sender, DONE, addresses=(HERE,))
    assert sender.tries == 1


def test_no_failure_reaches_the_run(caplog: pytest.LogCaptureFixture, own_home: Path) -> None:
    def broken(notice: Notice, address: Address) -> None:
        raise RuntimeError(f"a bug that names {address.url}")

    own_home.mkdir()
    (own_home / "notices").write_text("a file where the folder should be")
    with Notifier([HERE], send=broken) as notifier:
        notifier.notify(DONE)
    assert "not sent (RuntimeError)" in caplog.text and SECRET not in caplog.text


def test_a_receiver_that_hangs_holds_up_nobody(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.hangs = True
    caplog.set_level(logging.WARNING)
    notifier = Notifier([parse_address(receiver.url())])
    notifier.notify(DONE)  # returns although nobody answers
    notifier.close(timeout_s=0.05)
    assert "not all were sent" in caplog.text


def test_a_state_file_that_is_damaged_loses_nothing_but_what_it_knew(own_home: Path) -> None:
    sender = Sender()
    notify(sender, DONE, addresses=(HERE,))
    [state] = (own_home / "notices").glob("*.json")
    assert SECRET not in state.read_text()
    state.write_text("{")
    notify(sender, DONE, addresses=(HERE,))
    assert len(sender.sent) == 2


def test_without_addresses_nothing_is_written(own_home: Path) -> None:
    notify(Sender(), DONE, addresses=())
    assert not own_home.exists()


def test_the_whole_way(receiver: Receiver) -> None:
    receiver.statuses = [503, 200]
    with Notifier([parse_address(receiver.url())], pause=lambda _: None) as notifier:
        notifier.notify(Notice(NoticeKind.STOPPED, "veran-1", "budget: no step fits any more", usd=14.8, max_usd=15.0))
    texts = [body["text"] for _, body in receiver.posts]
    assert texts == ["launcher: veran-1: stopped: budget: no step fits any more; 14.80 usd spent of 15.00"] * 2


def test_a_rehearsal_is_told_as_one(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    monkeypatch.setenv("LAUNCHER_SANDBOX", "1")
    with Notifier([parse_address(receiver.url())]) as notifier:
        notifier.notify(DONE)
    [(_, body)] = receiver.posts
    assert body["text"].startswith("launcher (sandbox): veran-1: done")
    assert (own_home / "sandbox" / "notices").is_dir()
