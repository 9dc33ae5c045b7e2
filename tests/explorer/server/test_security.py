"""Whoever has not the token, comes from elsewhere or asks too much is refused, and the server goes on serving."""

import http.client
import socket
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import lossnav as ln
from lossnav.explorer.server import security
from lossnav.explorer.server.wire import LIMITS
from talking import Browser, kind

pytest_plugins = ["talking"]


def get(explorer, path=None, host=None, method="GET", **headers):
    """Ask just so, with nothing tidied on the way; return the status and the answer."""
    parts = urlsplit(explorer.url)
    wire = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    wire.putrequest(method, parts.path if path is None else path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": parts.netloc if host is None else host, **headers}.items():
        wire.putheader(name, value)
    wire.endheaders()
    answer = wire.getresponse()
    body = answer.read()
    wire.close()
    return answer.status, body, dict(answer.getheaders())


def token(explorer):
    return urlsplit(explorer.url).path.strip("/")


@pytest.fixture
def still_serves(explorer):
    """Whatever a test did, the next page is answered."""
    yield
    assert get(explorer)[0] == 200
    with Browser(explorer) as page:
        assert page.ask("hello")["title"] == "run"


pytestmark = pytest.mark.usefixtures("still_serves")


def test_the_address_opens_the_page(explorer):
    status, body, headers = get(explorer)
    assert status == 200 and b"<html" in body
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/ws", "/wrong/", "/%00/", "//", "/" + "a" * 5000])
def test_without_the_token_there_is_nothing(explorer, path):
    assert get(explorer, path)[0] == 403


def test_a_token_that_is_nearly_right_is_wrong(explorer):
    good = token(explorer)
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    for given in (wrong, good[:-1], good + "A", good.swapcase(), ""):
        assert get(explorer, f"/{given}/")[0] == 403
        assert _status_of_socket(explorer, f"/{given}/ws") == 403


def test_tokens_are_long_and_no_two_alike():
    made = {security.new_token() for _ in range(100)}
    assert len(made) == 100 and all(len(one) >= 32 for one in made)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a@127.0.0.1", "[::1"]
)
def test_another_name_for_this_server_is_refused(explorer, host):
    assert get(explorer, host=host)[0] in (400, 421)
    assert _status_of_socket(explorer, host=host) in (400, 421)


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST", "127.0.0.1:9"])
def test_this_machine_goes_by_its_own_names_and_any_port(explorer, host):
    """The port is another one behind `ssh -L`."""
    assert get(explorer, host=host.format(port=urlsplit(explorer.url).port))[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "https://{host}", "http://127.0.0.1", "http://localhost:{port}", "http://{host}/x",
        "http://{host}.evil.example", "http://evil@{host}", "file://", "",
    ],
)  # fmt: skip
def test_a_page_of_another_origin_is_refused(explorer, origin):
    parts = urlsplit(explorer.url)
    given = origin.format(host=parts.netloc, port=parts.port)
    assert get(explorer, Origin=given)[0] == 403
    assert _status_of_socket(explorer, origin=given) == 403


def test_a_page_of_its_own_origin_may_talk(explorer):
    parts = urlsplit(explorer.url)
    assert get(explorer, Origin=f"http://{parts.netloc}")[0] == 200
    with Browser(explorer, origin=f"http://{parts.netloc}") as page:
        assert page.ask("hello")["title"] == "run"


def test_two_origins_or_hosts_are_none(explorer):
    parts = urlsplit(explorer.url)
    good = f"http://{parts.netloc}"
    assert get(explorer, Origin=good, origin="http://evil.example")[0] == 403
    assert get(explorer, host=parts.netloc, HOST="evil.example")[0] in (400, 421)


def test_a_proxy_is_let_in_by_its_name(stored):
    with ln.explore(stored, block=False, allow_hosts=["hub.example"]) as behind:
        assert get(behind, host="hub.example", Origin="https://hub.example")[0] == 200
        assert get(behind, host="other.example")[0] == 421
        assert get(behind, host="hub.example", Origin="https://other.example")[0] == 403
        assert get(behind, path="/", host="hub.example")[0] == 403


@pytest.mark.parametrize(
    "name",
    [
        "../app.py", "..%2fapp.py", "..%2f..%2fcli.py", "%2e%2e/app.py", "....//app.py", "/etc/passwd",
        "%2fetc%2fpasswd", "..\\app.py", "sub/../../app.py", "index.html%00.js", ".hidden", "",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(explorer, name):
    status, body, _ = get(explorer, f"/{token(explorer)}/static/{name}")
    assert status in (400, 404)
    assert b"import" not in body and b"root:" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_is_taken_but_questions(explorer, method):
    assert get(explorer, method=method)[0] == 405


def test_a_message_that_is_too_long_ends_the_socket(explorer):
    with Browser(explorer) as page:
        page.socket.send('{"type":"hello","id":1,"x":"' + "x" * LIMITS["frame"] + '"}')
        assert _code(page) == 1009


@pytest.mark.parametrize("words", ["", "{", "nonsense", "[" * 60_000, "[1, 2]", '"hello"', "1" * 60_000, "null"])
def test_what_is_no_object_is_said_so_and_ends_the_socket(explorer, words):
    with Browser(explorer) as page:
        page.socket.send(words)
        said = page.receive()
        assert said["type"] == "error" and said["error"] == "RequestError"
        assert _code(page) == 1007


def test_bytes_end_the_socket(explorer):
    with Browser(explorer) as page:
        page.socket.send(b"\x80\x04cos\nsystem\n")  # the beginning of a pickle: nothing reads one
        assert page.receive()["type"] == "error"
        assert _code(page) == 1003


@pytest.mark.parametrize(
    "message",
    [
        {"type": "nothing"}, {"type": None}, {"type": ["hello"]}, {}, {"type": "hello", "id": "a"},
        {"type": "hello", "id": 2**60}, {"type": "hello", "id": True}, {"type": "__class__"}, {"type": "on_hello"},
        {"type": "window", "ranges": [[0, 1]]}, {"type": "window", "ranges": [[0, 1], [1, 1]]},
        {"type": "window", "ranges": [[0, 1], [0, 1e300]]}, {"type": "window", "ranges": [[0, 1], [0, float("inf")]]},
        {"type": "window", "ranges": [[0, 1], [0, 10**400]]}, {"type": "window", "ranges": [[0, 1], ["0", 1]]},
        {"type": "window", "ranges": [[0.5, 0.5 + 1e-12], [0, 1]]}, {"type": "point", "at": [0]},
        {"type": "point", "at": [0, float("nan")]}, {"type": "point", "at": {"alpha": 0}}, {"type": "point"},
        {"type": "line", "from": [0, 0], "to": [1, 1], "points": 1_000_000},
        {"type": "line", "from": [0, 0], "to": [1, 1], "points": 1.5},
        {"type": "ball", "at": [0, 0], "steps": 1_000_000}, {"type": "ball", "at": [0, 0], "optimizer": "lbfgs"},
        {"type": "ball", "at": [0, 0], "lr": -1}, {"type": "ball", "at": [0, 0], "seed": -1},
        {"type": "place", "axes": {"kind": "checkpoint", "checkpoint": 5}}, {"type": "place", "axes": "random"},
        {"type": "place", "axes": {"kind": "eval"}}, {"type": "go", "place": 99}, {"type": "go", "place": -1},
        {"type": "bookmark", "name": "", "view": {}}, {"type": "bookmark", "name": "a" * 2000, "view": {}},
        {"type": "code", "view": 3},
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_so_and_the_socket_stays_open(browser, message):
    """Among them a million points: more than a request may ask for."""
    browser.send(**{"type_": message.get("type", None), **{k: v for k, v in message.items() if k != "type"}})
    said = browser.receive()
    assert said["type"] == "error" and said["error"] == "OptionError" and said["said"]
    assert browser.ask("hello", id=3)["id"] == 3


def test_only_so_many_sockets_are_served(explorer):
    pages = [Browser(explorer) for _ in range(LIMITS["sockets"])]
    assert all(page.ask("hello")["type"] == "session" for page in pages)
    assert _status_of_socket(explorer) == 403
    for page in pages:
        page.close()


def test_half_a_request_does_not_hold_the_others_up(explorer):
    parts = urlsplit(explorer.url)
    with socket.create_connection((parts.hostname, parts.port)) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert get(explorer)[0] == 200


def test_the_address_is_of_this_machine_alone(explorer):
    assert urlsplit(explorer.url).hostname == "127.0.0.1"


def _status_of_socket(explorer, path=None, host=None, **options):
    """The status with which a socket is refused, before it is opened."""
    parts = urlsplit(explorer.url)
    path = f"{parts.path}ws" if path is None else path
    if host is not None:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        return get(explorer, path, host=host, **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, **headers)[0]
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{parts.netloc}{path}", **options).__enter__()
    return refused.value.response.status_code


def _code(page):
    """The code with which the server closed the socket."""
    with pytest.raises(ConnectionClosed) as closed:
        page.until(lambda message: False, 10)
    return closed.value.rcvd.code


def test_kinds_are_told_apart(browser):
    browser.send("hello")
    assert [kind(browser.receive()) for _ in range(2)] == ["session", "grid"]
