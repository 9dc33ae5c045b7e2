"""Messages that no page would send, at a running ``lossnav explore``: none may stop it, none may go unanswered.

Each message is a valid one that was spoilt at random (a value of another kind or size, a word left out, text cut off or
with a byte changed), or none at all. After each the page asks whether the explorer still answers. Half of them go to a
stored surface, half to a live session. Said are messages refused (an error of ours) and closed (what is no JSON ends a
socket, by contract). *Wrong* are errors of no kind of ours or without the number of the request, and sockets that were
closed for another reason; *hangs*: no answer within ten seconds. At last Ctrl-C ends the explorer, and what it stored
opens.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import lossnav as ln
from benchmarks import chaos_jobs
from benchmarks.chaos_commands import STARTING, Attempt, Command, Commands, Tally, waiting
from lossnav.explorer.server import wire

COUNT, QUICK = 2400, 60
OUTCOMES = ("sent", "refused", "closed", "errors", "hangs", "disconnects")
PATIENCE = 10.0  # seconds for an answer, after which it counts as a hang
BY_CONTRACT = (1003, 1007, 1009)  # no text, no JSON, too long

VALID: list[dict[str, Any]] = [
    {"type": "hello"},
    {"type": "window", "ranges": [[-1, 1], [-1, 1]]},
    {"type": "point", "at": [0.3, -0.2]},
    {"type": "line", "from": [-1, 0], "to": [1, 0.5], "points": 11},
    {"type": "ball", "at": [0.5, 0.5], "optimizer": "adam", "lr": 0.1, "steps": 20, "batch": None, "seed": 1},
    {"type": "place", "center": [0.1, 0.1], "axes": {"kind": "random", "seed": 3}},
    {"type": "go", "place": 0},
    {"type": "stop"},
    {"type": "code", "view": {"ranges": [[-1, 1], [0, 1]], "metric": "loss", "log": True, "kind": "surface"}},
    {"type": "bookmark", "name": "here", "view": {"place": 0}},
]
ODD: list[Any] = [
    None, True, "", "x" * 5000, "nan", "\ud800", "\u2028</script>", "__class__", "on_hello", "../../etc/passwd",
    "a.safetensors", -1, 0, 1e308, -1e308, 5e-324, 2**53, 10**300, float("nan"), float("inf"), [], [[]], {}, [1],
    [1, 2, 3], [[0, 1]] * 9, [None, None], ["a", "b"], {"a": {"b": [1]}}, [[1, 0], [0, 1]], [[0, 0], [0, 0]],
    [1e6, -1e6], [[1, 1 + 1e-13], [0, 1]],
]  # fmt: skip


def _odd(dice: random.Random) -> Any:
    """An odd value of its own: a message that is spoilt twice must not change the list."""
    return copy.deepcopy(dice.choice(ODD))


def spoilt(dice: random.Random, number: int) -> str | bytes:
    """A message of that number, spoilt in one way or two."""
    message: dict[str, Any] = {**json.loads(json.dumps(dice.choice(VALID))), "id": number}
    for _ in range(dice.choice((0, 1, 1, 2))):
        word = dice.choice([*message, "more"])
        way = dice.randrange(4)
        if way == 0:
            message.pop(word, None)
        elif way == 1 and isinstance(message.get(word), list) and message[word]:
            message[word][dice.randrange(len(message[word]))] = _odd(dice)
        elif way == 2 and isinstance(message.get(word), dict) and message[word]:
            message[word][dice.choice(list(message[word]))] = _odd(dice)
        else:
            message[word] = _odd(dice)
    text = json.dumps(message)
    way = dice.randrange(40)
    if way == 0:
        return text[: dice.randrange(len(text))]
    if way == 1:
        place = dice.randrange(len(text))
        return text[:place] + chr(dice.randrange(32, 127)) + text[place + 1 :]
    if way == 2:
        return dice.randbytes(dice.randrange(40))
    if way == 3:
        return '{"type":' + "[" * dice.choice((10, 900, 30_000))
    if way == 4:
        return f'{{"type":"bookmark","name":"n","id":{number},"view":' + '{"a":' * 500 + "1" + "}" * 501
    return '{"type":"hello","id":1,"x":"' + "x" * (2 * wire.LIMITS["frame"]) + '"}' if way == 5 else text


def fire(url: str, count: int, seed: int = 0, pid: int | None = None) -> Counter[str]:
    """Send messages to an explorer, by its address, one after the other; return what became of them.

    With the number of its process a hang is told from a machine that has no time for it.

    Returns
    -------
    Counter
        ``sent``, ``refused``, ``closed``, and those that should be 0: ``errors``, ``hangs``, ``disconnects``.
    """
    dice, counts = random.Random(seed), Counter(dict.fromkeys(OUTCOMES, 0))
    address = url.replace("http", "ws", 1) + "ws"
    number = 0
    while number < count:
        with connect(address, max_size=None) as page:
            while number < count:
                number += 1
                message = spoilt(dice, number)
                counts["sent"] += 1
                try:
                    page.send(message)
                    asked = -number if number % 20 else None  # now and then all that runs is ended
                    page.send(json.dumps({"type": "stop", "id": asked}))
                    _listen(page, asked, message, counts, pid)
                except TimeoutError:
                    counts["hangs"] += 1
                    break
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd is not None else None
                    by_contract = code in BY_CONTRACT or len(message) > wire.LIMITS["frame"]
                    counts["closed" if by_contract else "disconnects"] += 1
                    break
    return counts


def _listen(
    page: ClientConnection, number: int | None, message: str | bytes, counts: Counter[str], pid: int | None
) -> None:
    """Until the answer that it goes on; an error must be one of ours, with the number of the request."""
    while True:
        data = _received(page, pid)
        if isinstance(data, bytes):
            continue
        said = json.loads(data)
        if said["type"] == "progress" and said["what"] == "stop" and said["id"] == number:
            return
        if said["type"] == "error":
            ours = isinstance(getattr(ln.errors, said["error"], None), type)
            named = said["error"] == "RequestError" or said["id"] is not None or _number_in(message) is None
            counts["refused" if ours and named else "errors"] += 1


def _received(page: ClientConnection, pid: int | None) -> Any:
    """The next message; TimeoutError after so long, not counting when the explorer waited for a processor."""
    left, waited = PATIENCE, 0.0 if pid is None else waiting(pid)
    while True:
        try:
            return page.recv(timeout=left)
        except TimeoutError:
            now = waited if pid is None else waiting(pid)
            left, waited = min(now - waited, PATIENCE), now
            if left < 0.1:
                raise


def _number_in(message: str | bytes) -> int | None:
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return wire.number_of(found) if isinstance(found, dict) else None


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """Half of so many messages at a stored surface, half at a live session; an attempt is a message."""
    tally, place = Tally(), chaos_jobs.project(folder / "project")
    call = ("evaluate", "job.py:valley", "--grid", "11", "--normalize", "none", "-o", "stored.zarr")
    made = commands.run(*call, cwd=place, seconds=STARTING)
    if made.code:
        raise RuntimeError(made.err)
    truth = chaos_jobs.measured(place / "stored.zarr")
    half = count // 2
    explorers = {"stored": ("stored.zarr", half), "live": ("job.py:network", count - half)}
    for number, (name, (what, messages)) in enumerate(explorers.items()):
        attempt = Attempt(tally, f"{name} explorer")
        kept = () if name == "stored" else ("-o", "live.zarr")
        explorer = commands.start("explore", what, *kept, "--no-browser", cwd=place)
        counts = Counter(dict.fromkeys(OUTCOMES, 0))
        url = explorer.line()
        if url:
            with _quiet_client():
                counts = fire(url, messages, seed + number, explorer.pid)
        _count(attempt, tally, counts, explorer)
        _end(attempt, explorer)
        attempt.require(counts["sent"] == messages, "wrong", f"{counts['sent']} of {messages} were sent")
    _stored(Attempt(tally, "stores"), place, truth)
    return tally


def _count(attempt: Attempt, tally: Tally, counts: Counter[str], explorer: Command) -> None:
    faults = counts["errors"] + counts["hangs"] + counts["disconnects"]
    tally.attempts += counts["sent"]
    tally.survived += counts["sent"] - faults
    for name in ("refused", "closed"):
        tally.said[name] += counts[name]
    for name, kind in (("errors", "wrong"), ("disconnects", "wrong"), ("hangs", "hangs")):
        if counts[name]:
            attempt.fault(kind, f"{counts[name]} {name}", counts[name])


def _end(attempt: Attempt, explorer: Command) -> None:
    """Ctrl-C, as a user ends it."""
    explorer.signal(signal.SIGINT)
    attempt.ended(explorer.wait(), [0, 130])


def _stored(attempt: Attempt, place: Path, truth: chaos_jobs.Measured) -> None:
    attempt.require(chaos_jobs.measured(place / "stored.zarr") == truth, "lost", "the stored surface is another one")
    try:
        ln.open(place / "live.zarr")
    except ln.errors.StoreError as error:
        attempt.fault("lost", f"what was explored does not open: {error}")


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Without what the client says of sockets that were closed by contract."""
    logger = logging.getLogger("websockets.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
