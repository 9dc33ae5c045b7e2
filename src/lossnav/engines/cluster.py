"""A connection to a Ray cluster: connecting or starting one, counting its resources, and leaving it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from lossnav.engines.private_cluster import PrivateCluster, Wait
from lossnav.errors import ClusterError, MissingExtraError, OptionError

_REACH_SECONDS = 5.0  # Ray itself tries for two minutes and then ends the process
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


def ray_module() -> ModuleType:
    """Import ray."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('Ray is not installed. Install it with: pip install "lossnav[ray]"') from error
    module: ModuleType = ray
    return module


class Cluster:
    """A connection to a Ray cluster. A connection that this process already has is used, and left open.

    Parameters
    ----------
    address : str
        "local" starts a private cluster on this machine; "auto" finds the cluster that this machine belongs to; or
        host:port.
    cpus : int, optional
        The CPUs of a private cluster. Default: all of this machine.
    wait : callable, optional
        Called about twice a second with a message while a private cluster starts; if it raises, the start ends.

    Attributes
    ----------
    private : PrivateCluster or None
        The private cluster, if one was started here.

    Raises
    ------
    MissingExtraError
        If ray is not installed.
    ClusterError
        If the cluster cannot be reached, or this machine has fewer CPUs.
    """

    def __init__(self, address: str, cpus: int | None = None, wait: Wait = lambda words: None) -> None:
        self.ray: Any = ray_module()
        self.private: PrivateCluster | None = None
        self._ours = not self.ray.is_initialized()
        if not self._ours:
            return
        if address == "local":
            self.private = PrivateCluster(_enough_cpus(cpus), wait)
            try:
                self._connect(self.private.address, self.private.environment)
            except BaseException:
                self.private.close()
                raise
        else:
            _require_reachable(_resolve(address))
            self._connect(address, {})

    def _connect(self, address: str, environment: dict[str, str]) -> None:
        with _undisturbed(environment):
            if environment:
                _read_settings()  # they apply until the connection is closed
            try:
                self.ray.init(address=address, log_to_driver=False, configure_logging=False)
            except Exception as error:
                raise ClusterError(
                    f"Ray at {address} refused the connection: {type(error).__name__}: {error}. Check the address, and "
                    "that this machine belongs to the cluster (ray start --address=…), or use address='local'."
                ) from error
            self._mute(True)

    def _mute(self, muted: bool) -> None:
        """Keep Ray from printing about dead workers on stdout, where results go; the engine reports them itself.

        Ray has no option for this: it prints these messages, and only these, also with log_to_driver=False.
        """
        worker: Any = getattr(getattr(self.ray, "_private", None), "worker", None)
        if hasattr(worker, "print_to_stdstream"):
            if muted:
                self._print = worker.print_to_stdstream
            worker.print_to_stdstream = (lambda *_, **__: None) if muted else self._print

    def require(self, workers: int | None, cpus: int, gpus: float) -> int:
        """Return how many workers fit; raise ClusterError at once if none does, or fewer than requested."""
        fitting = self.room(cpus, gpus)
        if fitting < (workers or 1):
            held = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in self._nodes())
            asked = f"{workers} workers" if workers else "One worker"
            each = f"{cpus} CPUs and {gpus:g} GPUs" + (" each" if workers else "")
            raise ClusterError(
                f"{asked} with {each} do not fit into the cluster, {fitting or 'none'} would; its nodes have "
                f"{held or 'nothing'}. Request fewer (workers=, cpus_per_worker=, gpus_per_worker=), or add nodes: "
                "ray start --address=…"
            )
        return fitting

    def room(self, cpus: int, gpus: float) -> int:
        """Count the workers that fit into the cluster if nobody else uses it."""
        return _fitting(self._nodes(), cpus, gpus)

    def free_room(self, cpus: int, gpus: float) -> int:
        """Count the workers that fit into the resources that are free now."""
        return _fitting(self._free(), cpus, gpus)

    def describe_free(self) -> str:
        """Return how many CPUs and GPUs of the cluster are free."""
        free, there = self._free(), self._nodes()
        counts = (
            f"{sum(node.get(kind, 0) for node in free):g} of {sum(node.get(kind, 0) for node in there):g} {kind}s"
            for kind in ("CPU", "GPU")
            if kind == "CPU" or any(node.get(kind, 0) for node in there)
        )
        return " and ".join(counts)

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of each living node."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _free(self) -> list[dict[str, float]]:
        """Return the free resources of each living node; their sum, if this version of Ray tells no more."""
        state: Any = getattr(getattr(self.ray, "_private", None), "state", None)
        if hasattr(state, "available_resources_per_node"):
            return list(state.available_resources_per_node().values())
        return [self.ray.available_resources()]

    def close(self) -> None:
        """Close the connection; a private cluster ends, with all its processes."""
        environment = self.private.environment if self.private is not None else {}
        try:
            if self._ours and self.ray.is_initialized():
                with _undisturbed(environment):
                    self.ray.shutdown()
                self._mute(False)
                if environment:
                    _read_settings()
        finally:
            if self.private is not None:
                self.private.close()


def _fitting(nodes: list[dict[str, float]], cpus: int, gpus: float) -> int:
    """Count the workers that fit into nodes."""
    count = 0
    for node in nodes:
        fitting = node.get("CPU", 0) / cpus
        if gpus:
            fitting = min(fitting, node.get("GPU", 0) / gpus + 1e-9)  # ten times 0.1 counts as 1
        count += int(fitting)
    return count


def _enough_cpus(asked: int | None) -> int:
    """Return the number of CPUs of a private cluster."""
    there = os.cpu_count() or 1
    if asked is not None and asked > there:
        raise ClusterError(
            f"The workers need {asked} CPUs and this machine has {there}. Request fewer (workers=, cpus_per_worker=), "
            "or use a cluster: address='auto'."
        )
    return asked or there


def _resolve(address: str) -> str:
    """Return host and port of a cluster; empty if only Ray can find them."""
    address = (os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address
    if address != "auto":
        return address.removeprefix("ray://")
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # a private function of Ray: without it, Ray's own long timeout applies
        return ""
    try:
        return str(canonicalize_bootstrap_address("auto"))
    except ConnectionError as error:
        raise ClusterError(
            "No Ray cluster runs on this machine. Start one with: ray start --head, pass the address of another "
            "(address='host:6379'), or use address='local'."
        ) from error


def _require_reachable(address: str) -> None:
    """Raise ClusterError within seconds if there is no server at an address."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise OptionError(f"address={address!r} is not an address. Use 'local', 'auto' or host:port.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"There is no answer from {address}: {error}. Check the address and that the cluster runs (ray status), or "
            "use address='local'."
        ) from error


@contextmanager
def _undisturbed(environment: dict[str, str]) -> Iterator[None]:
    """Set an environment while Ray connects or disconnects; restore signal handlers, log level and environment.

    Ray installs a handler for SIGTERM; a run of ours has its own handlers (see `interrupts`).
    """
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    logger, before = logging.getLogger("ray"), _settings()
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ.update(_QUIET | before | environment)
    try:
        yield
    finally:
        for name in _settings().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        logger.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _settings() -> dict[str, str]:
    """Return the environment variables that Ray reads or sets."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"}


def _read_settings() -> None:
    """Make Ray read its environment variables again; by itself, it does so only when it is imported."""
    inner: Any = getattr(ray_module(), "_raylet", None)
    config: Any = getattr(inner, "Config", None)
    if hasattr(config, "initialize"):
        config.initialize("")
