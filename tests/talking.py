"""How the tests talk to a running explorer: over a real socket, reading frames by the words of the contract."""

import json
import struct
import time

import numpy as np
import pytest
from websockets.sync.client import connect

import lossnav as ln
from conftest import made


class Browser:
    """A socket, as a page has it."""

    def __init__(self, explorer, **options):
        self._connection = connect(explorer.url.replace("http", "ws", 1) + "ws", **options)
        self.socket = self._connection.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._connection.__exit__(None, None, None)

    def send(self, type_, **words):
        self.socket.send(json.dumps({"type": type_, **words}))

    def receive(self, seconds=20.0):
        """The next message: a dict, or (header, arrays)."""
        data = self.socket.recv(timeout=seconds)
        return json.loads(data) if isinstance(data, str) else unframe(data)

    def until(self, wanted, seconds=30.0):
        """Every message up to the first for which `wanted` holds, that one last."""
        seen, end = [], time.monotonic() + seconds
        while True:
            seen.append(self.receive(max(0.01, end - time.monotonic())))
            if wanted(seen[-1]):
                return seen

    def ask(self, type_, **words):
        """Send, and return the next message of the same type, or the error."""
        self.send(type_, **words)
        answers = {"hello": "session", "go": "session", "place": "session"}
        return self.until(lambda m: kind(m) in (answers.get(type_, type_), "error"))[-1]


def unframe(data):
    """Header and arrays of a frame, each in the shape that the header's axes say."""
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    assert (4 + length) % 8 == 0
    values = np.frombuffer(data, "<f8", offset=4 + length)
    shape = [len(axis) for axis in header["axes"]] if "axes" in header else [header["count"]]
    parts = values.reshape(len(header["arrays"]), *shape)
    return header, dict(zip(header["arrays"], parts, strict=True))


def kind(message):
    return message["type"] if isinstance(message, dict) else message[0]["type"]


def is_idle(message):
    """Whether this says that nothing is going on any more."""
    return isinstance(message, dict) and message["type"] == "progress" and not message["busy"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A bowl of 5 by 4 points with a hole, on disk."""
    values = 0.1 + np.add.outer(np.linspace(-1, 1, 5) ** 2, np.linspace(-1, 1, 4) ** 2)
    values[0, 0] = np.inf
    return made(values, se=0.01).lossnav.save(tmp_path_factory.mktemp("stored") / "run.zarr")


@pytest.fixture(scope="module")
def explorer(stored):
    with ln.explore(stored, block=False) as running:
        yield running


@pytest.fixture
def browser(explorer):
    with Browser(explorer) as page:
        yield page
