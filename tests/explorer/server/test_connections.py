"""Over real sockets: who does not read or answer is given up, by a clock of the test; refusals carry their id."""

import base64
import contextlib
import json
import os
import socket
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

import lossnav as ln
from conftest import made
from lossnav.explorer.requests.views import CodeRequest
from lossnav.explorer.server import outbox as outboxes
from lossnav.explorer.server.app import beside
from lossnav.explorer.server.server import Explorer
from lossnav.explorer.stored.handlers import Handler
from lossnav.explorer.stored.session import open_session
from talking import Browser, kind

pytest_plugins = ["talking"]


class Clock:
    """Runs as the machine's does, and ahead of it by what the test says."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


class Watching(Handler):
    """Says when a page came and when it went."""

    def __init__(self, session):
        super().__init__(session)
        self.came, self.went = threading.Event(), threading.Event()

    def join(self, client):
        super().join(client)
        self.came.set()

    def leave(self, client):
        super().leave(client)
        self.went.set()


@pytest.fixture
def watched(tmp_path):
    clock = Clock()
    store = made(np.ones((300, 300))).lossnav.save(tmp_path / "run.zarr")
    with Explorer(Watching(open_session(store)), clock=clock) as running:
        yield running, clock


def dial(explorer):
    """A bare connection, which takes little before it must be read."""
    parts = urlsplit(explorer.url)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((parts.hostname, parts.port))
    line.settimeout(60)
    return line


def shake_hands(explorer):
    line, parts = dial(explorer), urlsplit(explorer.url)
    key = base64.b64encode(os.urandom(16)).decode()
    line.sendall(
        f"GET {parts.path}ws HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in line.recv(4096)
    return line


def masked(text):
    """A frame of a client, masked with zeros."""
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


def let_pass(explorer, clock, seconds, page):
    """Time passes, in steps after each of which everything due was done and the page has answered what it was asked."""
    for _ in range(int(seconds / 5)):
        clock.ahead += 5
        for _ in range(3):
            assert page.socket.ping().wait(60)


def test_a_page_that_answers_no_ping_is_given_up_and_one_that_does_stays(watched):
    explorer, clock = watched
    silent = shake_hands(explorer)
    assert explorer.handler.came.wait(60)
    with Browser(explorer) as page:
        let_pass(explorer, clock, 45, page)
        assert explorer.handler.went.wait(60)
        assert len(explorer.handler.clients) == 1
        assert page.ask("hello")["type"] == "session"
    silent.close()


def test_a_page_that_reads_nothing_is_given_up(watched):
    """Its pongs could not even be missed: what is sent to it waits in front of the ping."""
    explorer, clock = watched
    deaf = shake_hands(explorer)
    assert explorer.handler.came.wait(60)
    for i in range(40):
        deaf.sendall(masked(json.dumps({"type": "hello", "id": i})))
    with Browser(explorer) as page:
        for _ in range(20):  # however long the machine takes to fill the line
            let_pass(explorer, clock, 25, page)
            if explorer.handler.went.wait(1):
                break
        assert explorer.handler.went.is_set()
        let_pass(explorer, clock, 40, page)  # and what is closing is cut off
        sockets = list(explorer._server.server_state.connections)
        assert len(sockets) == 1
    deaf.close()


@pytest.mark.parametrize("text", ["", "GET / HTTP/1.1\r\nHost: loc"])
def test_a_request_that_is_never_whole_is_given_up(watched, text):
    explorer, clock = watched
    half = dial(explorer)
    half.sendall(text.encode())
    with Browser(explorer) as page:
        let_pass(explorer, clock, 30, page)
    with contextlib.suppress(ConnectionResetError):
        assert half.recv(100) == b""


def test_a_second_request_that_is_never_whole_is_given_up(watched):
    explorer, clock = watched
    half, parts = dial(explorer), urlsplit(explorer.url)
    half.sendall(f"GET {parts.path}static/none HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\nGET /".encode())
    assert b"404" in half.recv(4096)
    with Browser(explorer) as page:
        let_pass(explorer, clock, 40, page)
    half.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        while half.recv(4096):
            pass


def test_an_answer_that_is_never_taken_is_given_up(watched):
    explorer, clock = watched
    deaf, parts = dial(explorer), urlsplit(explorer.url)
    deaf.sendall(f"GET {parts.path}export.html HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    deaf.recv(1)
    with Browser(explorer) as page:
        for _ in range(20):
            let_pass(explorer, clock, 30, page)
            if len(explorer._server.server_state.connections) == 1:
                break
        assert len(explorer._server.server_state.connections) == 1
    deaf.close()


def test_what_is_refused_says_which_request_it_was(watched, monkeypatch):
    explorer, _ = watched
    monkeypatch.setattr(outboxes, "FULL", 0)
    with Browser(explorer) as page:
        page.send("code", id=41, view={})
        error = page.receive()
        assert (error["id"], error["error"]) == (41, "OptionError") and "too many unread" in error["said"]
        page.send("stop", id=42)
        assert page.receive()["id"] == 42


@pytest.mark.parametrize(
    "view", [{"a": "x" * 9000}, json.loads('{"a":' * 50 + "1" + "}" * 50)], ids=["long", "nested deeply"]
)
def test_a_view_that_is_none_is_refused_with_its_id(explorer, view):
    with Browser(explorer) as page:
        page.send("bookmark", id=7, name="n", view=view)
        error = page.receive()
        assert kind(error) == "error" and error["id"] == 7 and "must be the view" in error["said"]
        assert page.ask("hello")["bookmarks"] == []


def test_a_bug_is_said_with_the_id_and_the_page_goes_on(explorer, monkeypatch, capfd):
    def broken(request, handler, client):
        raise KeyError("a bug")

    monkeypatch.setattr(CodeRequest, "stored", broken)
    with Browser(explorer) as page:
        page.send("code", id=5, view={})
        assert page.receive()["id"] == 5
        assert page.ask("hello")["type"] == "session"
    assert "KeyError" in capfd.readouterr().err


def test_of_news_the_last_alone_waits():
    waiting = outboxes.OrderedDict()
    for number, message in enumerate(
        [
            {"type": "progress", "id": 1, "busy": True, "done": 1},
            {"type": "error", "id": None},
            {"type": "progress", "id": 1, "busy": True, "done": 2},
            {"type": "progress", "id": 2, "busy": True, "done": 1},
            {"type": "progress", "id": 1, "busy": False, "done": 3},
            {"type": "bookmarks"},
            {"type": "bookmarks", "new": True},
        ]
    ):
        key = outboxes._key(message)
        waiting.pop(key, None)
        waiting[number if key is None else key] = message
    assert [m.get("done", m["type"]) for m in waiting.values()] == ["error", 2, 1, 3, "bookmarks"]


def test_the_end_waits_for_no_answer_that_is_being_worked_out(watched, capfd, monkeypatch):
    """Nor is there anything to read about it."""
    explorer, _ = watched
    working, free = threading.Event(), threading.Event()

    def slow(request, handler, client):
        working.set()
        free.wait(60)

    monkeypatch.setattr(CodeRequest, "stored", slow)
    deaf = shake_hands(explorer)
    deaf.sendall(masked(json.dumps({"type": "code", "id": 1, "view": {}})))
    assert working.wait(60)
    explorer.close()
    assert not explorer._thread.is_alive() and explorer.finished
    free.set()
    deaf.close()
    assert capfd.readouterr() == ("", "")


def test_what_a_thread_raises_is_raised_here():
    import asyncio

    async def ask():
        with pytest.raises(ZeroDivisionError):
            await beside(lambda: 1 / 0)
        return await beside(divmod, 7, 2)

    assert asyncio.run(ask()) == (3, 1)


def test_a_damaged_file_of_bookmarks_is_no_bookmark(stored):
    file = stored.with_suffix(".explore") / "session.json"
    file.parent.mkdir(exist_ok=True)
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    try:
        for text in (
            f'{{"bookmarks": [{{"name": "n", "view": {deep}}}]}}',
            '{"bookmarks": [{"name": "n", "view": 3}]}',
        ):
            file.write_text(text)
            assert open_session(stored).bookmarks == []
    finally:
        file.unlink()
    assert ln.open(stored) is not None
