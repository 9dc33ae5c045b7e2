"""How a live session begins, and how it goes on from what an earlier one left: its places, one store each."""

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
from lossnav.explorer.stored.session import KIND, folder_of, place_store, place_stores
from lossnav.surface import run_identity, zarr_io
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

FOLDER = "lossnav-explore"  # in the working directory, where no store is named


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
        What was measured at the centre, if it was.

    Raises
    ------
    PlanMismatchError
        If the store holds something else.
    OptionError
        If the store is a URL, or another explorer works in it.
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
            raise OptionError(f"A live session keeps its places in folders, and {place} is none. Choose a path.")
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
        """Stand on the first place, and on those that an earlier session left."""
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
        """The store of the first place, and the surface that lies beneath it where its points are another sampler's.

        That one is only read: it may be of a run that goes on.
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
        """Let others write into the stores."""
        for store in self._stores:
            store.close()
        if self._lock is not None:
            self._lock.close()

    def settle(self, found: Departure, center: ArrayLike | None) -> LivePlace:
        """Make a place of what was found, with a store of its own and its chart beside it."""
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
        """Fold everything into the stores; all of them, even where one cannot be written."""
        failure: StoreError | None = None
        for ground in self:
            try:
                ground.close()
            except StoreError as error:
                failure = error
        self._let_go()
        if failure is not None:
            raise failure

    def _open(self, number: int, path: Path) -> LivePlace:
        """A place that an earlier session left."""
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
        raise SamplerError(f"ends={ends!r} are no ends of {', '.join(chart.dims)}. Use (-1, 1), or a pair for each.")
    return given.copy()


def _ends_of(surface: Any, base: Any) -> Any:
    axes = surface.attrs["sampler"].get("axes", {})
    known = [axes.get(dim, ends) for dim, ends in zip(surface.lossnav.dims, np.asarray(base).tolist(), strict=True)]
    return np.array([[float(low), float(high)] for low, high, *_ in known])


def _default(objective: Objective, chart: Chart, base: Any) -> Path:
    """A store of its own for each thing that is explored: named by the model, and by what makes two runs the same."""
    axes = {dim: ends.tolist() for dim, ends in zip(chart.dims, base, strict=True)}
    plan = {"objective": objective.describe(), "chart": chart.describe(), "sampler": {"kind": KIND, "axes": axes}}
    versions = {"engine": {"precision": "native"}, "lossnav_version": "", "torch_version": ""}
    name = re.sub(r"[^\w-]+", "-", objective.name).strip("-") or "model"
    return Path(FOLDER) / f"{name}-{run_identity.plan_hash(jsonable.jsonable(plan | versions))[:8]}.zarr"


def _require_same(beneath: Any, ground: LivePlace) -> None:
    """Refuse a surface whose points are not measurements of this objective on this chart."""
    if made_by := run_identity.put_together(beneath.attrs):
        raise PlanMismatchError(
            f"{ground.store} is no measurement of one run: it has {made_by} in its attributes. Choose another store."
        )
    asked = ground.record.attributes()
    if different := run_identity.differences(beneath.attrs, asked, "objective", "chart", "engine"):
        raise PlanMismatchError(
            "The store holds another run:\n  " + "\n  ".join(different) + "\nChoose another store, or pass "
            "overwrite=True (--overwrite)."
        )


def _locked(folder: Path) -> IO[str] | None:
    """Keep a second explorer out of the same stores; the system lets go when this process ends, however it does.

    Raises
    ------
    OptionError
        If there is one.
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
            f"Another explorer ({other}) works in {folder}. Use its page, or choose another store with -o."
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
