"""Access to a store as bytes by key, in a folder, behind a URL, or in a Zarr store. No torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from lossnav._utils.paths import Location, as_path, is_local
from lossnav.errors import MissingAttributeError, StoreError

DOCUMENT = "zarr.json"  # what says of a key's folder that it is a group or an array
DIGEST = "digest"  # an attribute: of all that the document of a group or an array says besides
WRITTEN = "written"  # beside a digest: of an array true, of a group its arrays; what of them is missing was lost

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)  # a link to itself among them
_LONGEST = 2**25  # bytes of a document: what it says is read into memory


class Keys(Protocol):
    """Bytes by key; a key is a path with slashes."""

    def names(self, under: str) -> list[str]:
        """Names one level below a key, unordered; empty if there are none."""

    def read(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""

    def write(self, key: str, value: bytes) -> None:
        """Write the bytes of a key atomically."""

    def create(self, key: str, value: bytes) -> bool:
        """Write the bytes of a key unless it exists, and return whether this call did so: one of several succeeds."""

    def remove(self, under: str) -> None:
        """Remove a key and everything below it."""

    def alone(self, under: str, wait: bool = True) -> AbstractContextManager[None]:
        """Hold a lock against other processes of this machine, if the system supports it.

        Raises
        ------
        BlockingIOError
            If another process holds it, and waiting is turned off.
        """


def keys_of(place: Location, writing: bool = False) -> Keys:
    """The keys of a store."""
    place = as_path(place)
    if is_local(place):
        return FolderKeys(Path(place).expanduser())
    from zarr.storage import LocalStore, StorePath

    if isinstance(place, StorePath) and isinstance(place.store, LocalStore):
        return FolderKeys(place.store.root / place.path)
    return StoreKeys(place, writing)


def document(keys: Keys, at: str = "") -> dict[str, Any] | None:
    """Metadata document of a group or an array; None if it cannot be read."""
    found = keys.read(f"{at}/{DOCUMENT}".lstrip("/"))
    if found is None or len(found) > _LONGEST:
        return None
    try:
        value = json.loads(found)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """Metadata document of a group with given attributes, including its digest.

    Raises
    ------
    StoreError
        If it is too long to be read again.
    """
    said = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    said = json.loads(json.dumps(said))
    said["attributes"][DIGEST] = digest_of(said)
    require_short(said)
    return json.dumps(said, indent=2).encode()


def require_short(said: Mapping[str, Any]) -> None:
    """Raise a StoreError if a document is longer than the reader accepts, before it is written."""
    if len(json.dumps(said)) > _LONGEST / 16 and (length := len(json.dumps(said, indent=2))) > _LONGEST:
        attributes = said.get("attributes", {})
        most = max(attributes, key=lambda key: len(json.dumps(attributes[key])))
        raise StoreError(
            f"The attributes of the surface would be {length / 1e6:.0f} MB long, most of it {most!r}; at most "
            f"{_LONGEST / 1e6:.0f} MB can be read. Store less in them, for example fewer seeds in one ensemble."
        )


def digest_of(said: Mapping[str, Any]) -> str:
    """Digest of a document: sixteen hex digits."""
    attributes = {key: value for key, value in said.get("attributes", {}).items() if key != DIGEST}
    text = json.dumps({**said, "attributes": attributes}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class StoredDocument(dict[str, Any]):
    """A nested document in which a missing key raises `MissingAttributeError`."""

    def __missing__(self, key: str) -> Any:
        raise MissingAttributeError(
            f"This store has no attribute {key!r} (it has {', '.join(map(str, list(self)[:6]))}, ...): it "
            "was damaged, or written by another program. Evaluate again, to another store or with --overwrite."
        )


def as_said(value: Any) -> Any:
    """Convert the mappings in a JSON value to `StoredDocument`."""
    if isinstance(value, dict):
        return StoredDocument({key: as_said(part) for key, part in value.items()})
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [as_said(part) for part in value]
    return value


def is_whole(said: Mapping[str, Any]) -> bool | None:
    """Whether a document matches its digest; None if it has none."""
    attributes = said.get("attributes")
    if not isinstance(attributes, Mapping) or DIGEST not in attributes:
        return False if isinstance(attributes, Mapping) and attributes.get(WRITTEN) else None
    return bool(attributes[DIGEST] == digest_of(said))


class FolderKeys:
    """Files of a folder on this machine, or on a disk that several share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, under: str) -> list[str]:
        """As `Keys.names`."""
        try:
            return os.listdir(self._root / under)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return []
            raise

    def read(self, key: str) -> bytes | None:
        """As `Keys.read`."""
        try:
            with (self._root / key).open("rb") as file:
                return file.read(_LONGEST + 1)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise

    def write(self, key: str, value: bytes) -> None:
        """As `Keys.write`."""
        path = self._root / key
        scratch = self._scratch(path, value)
        try:
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise

    def create(self, key: str, value: bytes) -> bool:
        """As `Keys.create`."""
        path = self._root / key
        scratch = self._scratch(path, value)
        try:
            os.link(scratch, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links; who reads it half-written takes it for damaged, and looks again
            try:
                with path.open("xb") as file:
                    file.write(value)
            except FileExistsError:
                return False
        finally:
            scratch.unlink(missing_ok=True)
        return True

    def _scratch(self, path: Path, value: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(value)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)

    def remove(self, under: str) -> None:
        """As `Keys.remove`."""
        path = self._root / under
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def alone(self, under: str, wait: bool = True) -> Iterator[None]:
        """As `Keys.alone`."""
        try:
            import fcntl

            number = os.open(self._root / under, os.O_RDONLY)
        except (ImportError, OSError):  # Windows, or the folder is gone
            yield
            return
        try:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:  # a network disk that has no locks
                pass
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_UN)  # also for a child that was forked meanwhile
            os.close(number)


class StoreKeys:
    """Keys behind a URL, or of a Zarr store."""

    def __init__(self, place: Location, writing: bool) -> None:
        from zarr.core.sync import sync
        from zarr.storage._common import make_store_path

        self._sync = sync
        at = sync(make_store_path(place, mode="a" if writing else "r"))
        self._store, self._path = at.store, at.path

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._path, key) if part)

    def names(self, under: str) -> list[str]:
        """As `Keys.names`."""

        async def listed() -> list[str]:
            return [name async for name in self._store.list_dir(self._key(under))]

        with suppress(FileNotFoundError):
            return list(dict.fromkeys(name.rstrip("/").rpartition("/")[2] for name in self._sync(listed())))
        return []

    def read(self, key: str) -> bytes | None:
        """As `Keys.read`."""
        from zarr.core.buffer import default_buffer_prototype

        found = self._sync(self._store.get(self._key(key), prototype=default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def write(self, key: str, value: bytes) -> None:
        """As `Keys.write`."""
        self._sync(self._store.set(self._key(key), _buffer(value)))

    def create(self, key: str, value: bytes) -> bool:
        """As `Keys.create`."""
        from zarr.storage import FsspecStore

        if isinstance(self._store, FsspecStore):  # a put on the condition that there is nothing, where a cloud has it
            path = "/".join(part for part in (self._store.path, self._key(key)) if part)
            try:
                self._sync(self._store.fs._pipe_file(path, value, mode="create"))
            except FileExistsError:
                return False
        else:
            self._sync(self._store.set_if_not_exists(self._key(key), _buffer(value)))
        return self.read(key) == value

    def remove(self, under: str) -> None:
        """As `Keys.remove`."""
        self._sync(self._store.delete_dir(self._key(under)))
        with suppress(FileNotFoundError):
            self._sync(self._store.delete(self._key(under)))

    @contextmanager
    def alone(self, under: str, wait: bool = True) -> Iterator[None]:
        """As `Keys.alone`."""
        yield


def _buffer(value: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(value)
