"""One writer per store: a writer takes a lease, shows that it is alive, and stops when another writer has taken over.

A lease is a number. If the last lease is ``lease/00000007``, a new writer creates the group ``lease/00000008``; of
several writers one succeeds (an exclusive create; on an object store a conditional put). The highest number holds the
store, so a writer that was suspended and presumed dead sees a higher one, and stops writing. Numbers only increase and
give the order of sessions, whatever their clocks. The last lease remains in the store.

A lease may be taken over if it was released, if its process has ended (on the same machine), or if its heartbeat, a
counter that a thread increases, did not change while another writer watched it. Clocks of different machines are never
compared. No torch.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

from lossnav._utils.paths import LEASE, Location, name_of
from lossnav.errors import StoreBusyError, StoreError, StoreTakenOverError
from lossnav.storage.keys import DIGEST, Keys, document, group_document, is_whole, keys_of

BEAT = 5.0  # seconds between two beats
_LOOKS = 12  # at a heartbeat, a beat apart, before it is held for still
_RECORD = {  # of a lease: what it says, and of what type
    "host": str, "process": int, "process_started": str, "since": str, "token": str, "beat": int, "released": bool,
}  # fmt: skip
_PATIENCE = 20 * _LOOKS  # such moments, where nobody says who writes
_MOST = 10**8  # of a number
_MOMENT = 0.05  # seconds until another one's write is over, most often
_wait = time.sleep

_HELD: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()  # by their tokens, of this process


class Lease:
    """The right to write into a store, until it is released.

    Parameters
    ----------
    place : path, URL or zarr store
        The store, which need not exist.
    least : int
        The new number is higher than this one, the highest number used elsewhere in the store.
    of_ours : bool
        Whether a lease of this process is taken over.

    Attributes
    ----------
    number : int
        Higher than those of all earlier writers.

    Raises
    ------
    StoreBusyError
        If another run is writing there.
    """

    def __init__(self, place: Location, least: int = 0, of_ours: bool = False) -> None:
        self._place, self._keys = name_of(place), keys_of(place, writing=True)
        self._owner, self._count = os.getpid(), 0
        self._started = _process(self._owner)[1]
        self._token = secrets.token_hex(8)
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._stop, self._lock, self._depth = threading.Event(), threading.RLock(), 0
        _HELD[self._token] = self  # before others of this process can see it in the store
        try:
            self.number = self._take(least, of_ours)
        except BaseException:
            _HELD.pop(self._token, None)
            raise
        self._end = weakref.finalize(self, _give_back, self._keys, self.number, self._record(), self._stop)
        threading.Thread(target=_beat, args=(weakref.ref(self), self._stop), name="lossnav lease", daemon=True).start()

    def _take(self, least: int, of_ours: bool) -> int:
        if document(self._keys, LEASE) is None:
            self._keys.write(f"{LEASE}/zarr.json", group_document({}))
        for tries in count():
            numbers = _numbers(self._keys)
            there = _record_at(self._keys, numbers[-1]) if numbers else None
            mine = of_ours and there is not None and there["token"] in _HELD
            if there is not None and not mine and not there["released"] and _is_alive(self._keys, numbers[-1], there):
                raise _busy(self._place, there)
            number = max([*numbers, least]) + 1
            if number >= _MOST:  # no name of eight digits, and so none that would be seen
                raise StoreError(
                    f"{self._place} names a writer {number - 1:,}, which is too high for any real run: it was damaged, "
                    "or forged. Choose another store, or remove it."
                )
            try:
                with self._keys.alone(LEASE, wait=False):  # a list of names may have been read while they changed
                    unchanged = _numbers(self._keys) == numbers
                    taken = unchanged and self._keys.create(_key(number), group_document(self._record()))
            except BlockingIOError:  # somebody is in the middle of a write, though perhaps stopped there
                if tries >= _LOOKS and there is not None:
                    raise _busy(self._place, there) from None
                if tries >= _PATIENCE:
                    raise StoreBusyError(
                        f"Another process has started to write to {self._place}, but does not continue. Wait, end it, "
                        "or choose another store."
                    ) from None
                _wait(_MOMENT)
                continue
            if unchanged and not taken:  # something is there that is no lease, or another one's by now: that is seen
                least = number
            if taken and _numbers(self._keys)[-1:] != [number]:  # an object store, where nobody is alone
                with suppress(OSError):
                    self._keys.remove(f"{LEASE}/{number:08d}")
                continue
            if taken:
                for other in numbers:
                    with suppress(OSError):
                        self._keys.remove(f"{LEASE}/{other:08d}")
                return number
        raise AssertionError

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context in which the holder of the lease writes.

        Raises
        ------
        StoreTakenOverError
            If another run holds the store by now.
        """
        with self._lock:
            if self._depth:  # part of a longer section
                self.require()
                yield
                return
            with self._keys.alone(LEASE):
                self.require()
                self._depth = 1
                try:
                    yield
                finally:
                    self._depth = 0

    def require(self) -> None:
        """Raise if another run has taken over."""
        if not self.holds:
            raise StoreTakenOverError(
                f"Another run has taken over {self._place}, because this one gave no sign of life for a while "
                "(a suspended process or machine). Nothing more is written there. The result computed so far "
                "is in the .surface of this error; the same call resumes once the other run has ended."
            )

    @property
    def holds(self) -> bool:
        """Whether no other run has taken over."""
        numbers = _numbers(self._keys)
        if not numbers or numbers[-1] != self.number or self._owner != os.getpid():
            return False
        there = _record_at(self._keys, self.number)
        return there is not None and there["token"] == self._token

    def release(self, forget: bool = False) -> None:
        """Release the lease, and remove it if nothing was written. A second call does nothing."""
        _HELD.pop(self._token, None)
        if forget and self._end.alive:
            with suppress(Exception), self.writing():
                self._keys.remove(LEASE)
        self._end()

    def beat(self) -> bool:
        """Show that this process is alive; return whether to continue doing so."""
        if not self.holds:
            return False
        self._count += 1
        self._keys.write(_key(self.number), group_document(self._record()))
        return True

    def _record(self) -> dict[str, Any]:
        return {
            "host": _host(),
            "process": self._owner,
            "process_started": self._started,
            "since": self._since,
            "token": self._token,
            "beat": self._count,
            "released": False,
        }


def require_free(place: Location) -> None:
    """Raise if another run is writing into a store; a doubtful lease counts as one, since this function does not wait.

    Raises
    ------
    StoreBusyError
    """
    keys = keys_of(place)
    if numbers := _numbers(keys):
        there = _record_at(keys, numbers[-1])
        if there is not None and not there["released"] and _state(there) != "gone":
            raise _busy(name_of(place), there)


def highest(place: Location) -> int:
    """The number of the last writer, 0 if there was none."""
    return (_numbers(keys_of(place)) or [0])[-1]


def _busy(place: str, there: dict[str, Any]) -> StoreBusyError:
    host = there["host"].partition("/")[0]
    return StoreBusyError(
        f"Another run, started {there['since']} (process {there['process']} on {host}), is writing to {place}. "
        "Wait until it has ended (ln.open, lossnav info and lossnav explore can read it meanwhile), or choose another "
        "store."
    )


def _beat(of: weakref.ref[Lease], stop: threading.Event) -> None:
    """What the thread does: it holds no lease, so that one that was forgotten ends."""
    while not stop.wait(BEAT):
        lease = of()
        if lease is None:
            return
        with suppress(Exception):  # a full disk, or a network that is away: the next one may come through
            if not lease.beat():
                return
        del lease


def _give_back(keys: Keys, number: int, record: dict[str, Any], stop: threading.Event) -> None:
    stop.set()
    if record["process"] != os.getpid():  # a child that was forked holds nothing
        return
    with suppress(Exception), keys.alone(LEASE):
        there = _record_at(keys, number)
        if there is not None and there["token"] == record["token"]:
            keys.write(_key(number), group_document({**there, "released": True}))


# ---------------------------------------------------------------------- whether another one lives


def _is_alive(keys: Keys, number: int, there: dict[str, Any]) -> bool:
    """Whether a lease is held; where the process cannot be looked for, whether its heart beats while one watches."""
    state = _state(there)
    if state != "unknown":
        return state == "alive"
    for _ in range(_LOOKS):
        _wait(BEAT)
        numbers, now = _numbers(keys), _record_at(keys, number)
        if not numbers or numbers[-1] != number or now is None or now["released"]:
            return False  # then it is not this one that holds the store; who does is seen in the next round
        if now["beat"] != there["beat"] or now["token"] != there["token"]:
            return True
    return False


def _state(there: dict[str, Any]) -> Literal["alive", "gone", "unknown"]:
    """Of a process on this machine; a stopped one (Ctrl-Z) is as unknown as one elsewhere."""
    if there["host"] != _host():
        return "unknown"
    state, started = _process(there["process"])
    if state == "unknown":
        return "unknown"
    if state == "gone" or started != there["process_started"]:
        return "gone"
    if there["process"] == os.getpid():
        return "alive" if there["token"] in _HELD else "gone"
    return "unknown" if state == "stopped" else "alive"


@cache
def _host() -> str:
    """A name of this machine since it was started, and of the space of process numbers (a container has its own)."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _process(number: int) -> tuple[Literal["running", "stopped", "gone", "unknown"], str]:
    """The state of a process of this machine, and when it was started, in whatever unit the system says it."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return "gone", ""
        except OSError:
            return "unknown", ""
        state, started = fields[0], fields[19]
    elif os.name == "posix":
        command = ["ps", "-o", "state=,lstart=", "-p", str(number)]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown", ""
        if not said:
            return "gone", ""
        state, _, started = said.partition(" ")
    else:
        return "unknown", ""
    if state[0] in "ZX":  # it ended, and nobody has asked how
        return "gone", started
    return ("stopped" if state[0] in "Tt" else "running"), started


# ---------------------------------------------------------------------- what is written


def _key(number: int) -> str:
    return f"{LEASE}/{number:08d}/zarr.json"


def _numbers(keys: Keys) -> list[int]:
    """Of all leases that are written, the highest last."""
    names = (name for name in keys.names(LEASE) if name.isascii() and name.isdigit() and len(name) == 8)
    return sorted(int(name) for name in names if keys.read(f"{LEASE}/{name}/zarr.json") is not None)


def _record_at(keys: Keys, number: int) -> dict[str, Any] | None:
    """What a lease says; None where it is none of ours, or damaged."""
    said = document(keys, f"{LEASE}/{number:08d}")
    if said is None or not is_whole(said):
        return None
    record = {key: value for key, value in said["attributes"].items() if key != DIGEST}
    return (
        record
        if _RECORD.keys() == record.keys() and all(type(record[k]) is kind for k, kind in _RECORD.items())
        else None
    )
