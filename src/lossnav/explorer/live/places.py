"""The places of a live session, each with a store of its own; an earlier session is resumed from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from lossnav._utils import jsonable
from lossnav._utils.paths import Location, as_path, beside, is_local, require_writable
from lossnav.charts.io import open_chart, save_chart
from lossnav.engines import Local
from lossnav.errors import OptionError, PlanMismatchError, SamplerError, StoreBusyError, StoreError
from lossnav.explorer.live.new_axes import Departure, probes_of
from lossnav.explorer.live.place import LivePlace
from lossnav.explorer.stored.place import KIND
from lossnav.explorer.stored.session import folder_of, place_store, place_stores
from lossnav.surface import run_identity, zarr_io
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

FOLDER = "lossnav-explore"  # in the working directory, if no store is given


class LivePlaces(list[LivePlace]):
    """The places of a live session, by their numbers.

    Parameters
    ----------
    objective, chart
        Of place 0.
    base : ndarray of shape (k, 2)
    store : path or None
    overwrite : bool
    engine : Local
    center : mapping
        Values at the centre, if they are measured already.

    Raises
    ------
    PlanMismatchError
        If the store contains another run.
    OptionError
        If the store is a URL, or another explorer uses it.
    """

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        base: Any,
        store: Location | None,
        overwrite: bool,
        engine: Local,
        center: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.engine = engine
        self.title = f"{objective.name}, {type(chart).__name__.lower()}"
        place = as_path(store) if store is not None else _default(objective, chart, base)
        if not is_local(place):
            raise OptionError(f"The store of a live session must be a folder, got {place}. Choose a path.")
        self.store = require_writable(place, overwrite=True, kind="surface")
        self._stores: list[Store] = []
        self._lock = _locked(folder_of(self.store))
        try:
            self._begin(objective, chart, base, overwrite, center)
        except BaseException:
            self._let_go()
            raise

    def _begin(
        self, objective: Objective, chart: Chart, base: Any, overwrite: bool, center: Mapping[str, float]
    ) -> None:
        """Make the first place, and those of an earlier session."""
        about: dict[str, Any] = {"number": 0, "words": "start", "center": None, "axes_info": {}}
        own, beneath = self._own(overwrite)
        if overwrite:
            for further in place_stores(self.store).values():
                _remove(further)
        if beneath is not None:
            base = _ends_of(beneath, base)
        first = LivePlace(
            objective, chart, base, probes_of(chart, base, objective.seed), own, self.engine, about, beneath, center
        )
        if beneath is not None:
            _require_same(beneath, first)
        self.append(first)
        for number, path in place_stores(self.store).items():
            if number == len(self):
                self.append(self._open(number, path))

    def _own(self, overwrite: bool) -> tuple[Store, Any]:
        """Return the store of the first place, and the surface of another sampler that it extends, or None.

        That surface is only read: its run may still be going on.
        """
        try:
            own = self._store(self.store, overwrite)
        except StoreBusyError:
            beneath = None if overwrite else zarr_io.open_surface(self.store)
            if beneath is None or beneath.attrs["sampler"]["kind"] == KIND:
                raise
        else:
            beneath = own.earlier
            if beneath is None or beneath.attrs["sampler"]["kind"] == KIND:
                return own, None
            own.close()
        return self._store(place_store(self.store, 0)), beneath

    def _store(self, place: Path, overwrite: bool = False) -> Store:
        self._stores.append(Store(place, overwrite))
        return self._stores[-1]

    def _let_go(self) -> None:
        """Release the stores and the lock."""
        for store in self._stores:
            store.close()
        if self._lock is not None:
            self._lock.close()

    def settle(self, found: Departure, center: ArrayLike | None) -> LivePlace:
        """Make a new place, with a store of its own and its chart beside it."""
        number = len(self)
        at = None if center is None else np.asarray(center, np.float64).tolist()
        about = {"number": number, "words": found.words, "center": at, "axes_info": found.axes_info}
        path = place_store(self.store, number)
        store = self._store(path, overwrite=True)
        save_chart(found.chart, beside(path))
        engine = Local(self.engine.plan, self.engine.precision)
        made = LivePlace(
            found.objective,
            found.chart,
            found.base,
            probes_of(found.chart, found.base, found.objective.seed),
            store,
            engine,
            about,
        )
        made.place.store = path
        self.append(made)
        return made

    def close(self) -> None:
        """Write the points of all places to their stores, also if one of them fails."""
        failure: StoreError | None = None
        for live_place in self:
            try:
                live_place.close()
            except StoreError as error:
                failure = error
        self._let_go()
        if failure is not None:
            raise failure

    def _open(self, number: int, path: Path) -> LivePlace:
        """Open a place of an earlier session."""
        store = self._store(path)
        assert store.earlier is not None
        said = store.earlier.attrs
        chart = open_chart(said["chart"], kept=beside(path))
        objective = self[0].objective.around(chart(np.zeros(len(chart.dims))))
        about = {"number": number, **{name: said["explorer"][name] for name in ("words", "center", "axes_info")}}
        base = _ends_of(store.earlier, self[0].base)
        engine = Local(self.engine.plan, self.engine.precision)
        return LivePlace(objective, chart, base, probes_of(chart, base, objective.seed), store, engine, about)


def _base(ends: ArrayLike, chart: Chart) -> Any:
    given = np.asarray(ends, np.float64)
    given = np.broadcast_to(given, (len(chart.dims), 2)) if given.shape == (2,) else given
    if given.shape != (len(chart.dims), 2) or not np.isfinite(given).all() or not (given[:, 0] < given[:, 1]).all():
        raise SamplerError(
            f"ends must be (low, high), or a pair for each of {', '.join(chart.dims)}, got {ends!r}. Use (-1, 1)."
        )
    return given.copy()


def _ends_of(surface: Any, base: Any) -> Any:
    axes = surface.attrs["sampler"].get("axes", {})
    known = [axes.get(dim, ends) for dim, ends in zip(surface.lossnav.dims, np.asarray(base).tolist(), strict=True)]
    return np.array([[float(low), float(high)] for low, high, *_ in known])


def _default(objective: Objective, chart: Chart, base: Any) -> Path:
    """Return the default store: named by the model and by a hash of the objective, the chart and the ends."""
    axes = {dim: ends.tolist() for dim, ends in zip(chart.dims, base, strict=True)}
    plan = {"objective": objective.describe(), "chart": chart.describe(), "sampler": {"kind": KIND, "axes": axes}}
    versions = {"engine": {"precision": "native"}, "lossnav_version": "", "torch_version": ""}
    name = re.sub(r"[^\w-]+", "-", objective.name).strip("-") or "model"
    return Path(FOLDER) / f"{name}-{run_identity.plan_hash(jsonable.jsonable(plan | versions))[:8]}.zarr"


def _require_same(beneath: Any, live_place: LivePlace) -> None:
    """Raise if the points of a surface are not measurements of this objective on this chart."""
    if reason := run_identity.mismatch(beneath.attrs, live_place.record.attributes()):
        raise PlanMismatchError(
            f"The surface in {live_place.store} {reason.rstrip()}\nChoose another store, or pass overwrite=True "
            "(--overwrite)."
        )


def _locked(folder: Path) -> IO[str] | None:
    """Lock the folder against a second explorer; the system releases the lock when this process ends.

    Raises
    ------
    OptionError
        If another explorer has the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        other = lock.read().strip() or "another process"
        lock.close()
        raise OptionError(
            f"Another explorer ({other}) uses {folder}. Use its page, or choose another store with -o."
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def _remove(store: Path) -> None:
    import shutil

    shutil.rmtree(store, ignore_errors=True)
    with suppress(OSError):
        Path(beside(store)).unlink()
