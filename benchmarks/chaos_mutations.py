"""Stores that somebody damaged, or made to do harm: how they are made.

Everything is drawn by a seed. `make_stores` makes sound ones, `mutate` changes one as anybody might who wants to do
harm and knows the format, `damage` as a disk does. What would run if a store's code were run leaves a mark (`mark_of`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_CALLS = 2000  # of the model, where a command computes

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**9, 10**18, 10**30, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"),
    float("inf"), "", "nan", "inf", "x", "x" * 250, "x" * 100_000, "../../../etc/passwd", "<script>alert(1)</script>",
    "\x00\x1b[2J", "alpha", "{0.__class__}", "%s%n", [], [[]], [0], [None], ["x"] * 3, [1e308, -1e308, 5],
    [float("nan")] * 3, [10**9, 10**9], [18_000, 18_000], {}, {"": ""}, {"kind": "nothing"}, {"kind": "pca"},
    {"kind": []}, [{"kind": "hessian"}, {"kind": "through"}],
]  # fmt: skip


_CALLS = [0]  # of the model's forward pass
_JOB = """

def objective():
    return make_objective()[0]
"""


def count_calls(on: bool) -> None:
    """Begin to count the model's forward passes, or stop."""
    _CALLS[0] = 0 if on else -(10**9)


# ---------------------------------------------------------------------- sound ones


def make_objective() -> tuple[Any, Any, Any]:
    """A small model whose forward pass says stop when a command computes without end."""
    import torch

    import lossnav as ln

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))

        def forward(self, x: Any) -> Any:
            _CALLS[0] += 1
            if _CALLS[0] > MOST_CALLS:
                raise KeyboardInterrupt
            return self.inner(x)

    model = Net()
    for parameter in model.parameters():
        values = torch.linspace(-1, 1 + parameter.ndim, parameter.numel())
        parameter.data.copy_(values.reshape(parameter.shape))
    x = torch.linspace(-1, 1, 12).reshape(-1, 1)
    return ln.Objective(model, "mse", (x, x.sin()), batch_size=6), model, x


def make_stores(folder: Path) -> list[Path]:
    """A grid with a trajectory beside it, points, a line, an ensemble, a run that was killed, and one interpolated."""
    import torch

    import lossnav as ln
    from lossnav.specs.objective_of import load_objective
    from lossnav.surface.run_store import Store

    folder.mkdir(parents=True, exist_ok=True)
    count_calls(False)
    objective, model, x = make_objective()
    quiet: dict[str, Any] = {"progress": False}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ln.Trajectory(model, store=folder / "run.trajectory", every=2) as trajectory:
        for epoch in range(12):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), x.sin())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            trajectory.step(epoch=epoch, loss=loss)
    trajectory = ln.Trajectory.open(folder / "run.trajectory")
    after = ln.Objective(model, "mse", (x, x.sin()), batch_size=6)
    plane = ln.Plane(after.params, *ln.directions.pca(trajectory, n=2))
    made = [folder / "pca.zarr"]
    grid = ln.Grid(alpha=(-1, 1, 7), beta=(-1, 1, 6))
    ln.evaluate(after, plane, grid, store=made[-1], save_directions=True, **quiet)
    ln.evaluate_trajectory(after, plane, trajectory, store=made[-1], **quiet)
    random_plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1))
    made.append(folder / "samples.zarr")
    ln.evaluate(objective, random_plane, grid, store=made[-1], keep_samples=True, save_directions=True, **quiet)
    made.append(folder / "points.zarr")
    ln.evaluate(
        objective, random_plane, ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), max_points=40), store=made[-1], **quiet
    )
    line = ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=2))
    made.append(folder / "line.zarr")
    ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 9)), store=made[-1], **quiet)
    made.append(folder / "ensemble.zarr")
    lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))  # noqa: E731
    ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), range(3), store=made[-1], **quiet)
    made.append(folder / "killed.zarr")
    surface = ln.open(folder / "line.zarr")
    from lossnav.surface.assemble import rows_of

    rows = list(rows_of(surface))
    header = surface.copy(deep=True)
    header["status"].values[...] = 0
    header["loss"].values[...] = float("nan")
    header.attrs["finished"] = False
    store = Store(made[-1])
    store.begin(header)
    for row in rows[:5]:
        store.append(row)
    store.flush()
    store.close()
    made.append(folder / "interpolated.zarr")
    ln.save(ln.open(folder / "points.zarr").lossnav.to_grid(9), made[-1])
    made.append(folder / "named.zarr")
    (folder / "job.py").write_text("from benchmarks.chaos_mutations import make_objective\n" + _JOB)
    named = load_objective(f"{folder / 'job.py'}:objective")
    chart = ln.Line(named.params, *ln.directions.random(named, n=1, seed=3))
    ln.evaluate(named, chart, ln.Grid(alpha=(-1, 1, 9)), store=made[-1], save_directions=True, **quiet)
    return made


# ---------------------------------------------------------------------- damaged ones


def mutate(store: Path, dice: random.Random) -> str:
    """Change a store in one to three ways, and say which."""
    names = [dice.choice(sorted(WAYS)) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
    return _changed(store, names, dice)


def _changed(store: Path, names: list[str], dice: random.Random) -> str:
    names.sort(key=lambda name: name == "linked")  # what follows a link to a device never ends
    said = []
    for name in names:
        with contextlib.suppress(
            OSError, ValueError, KeyError, IndexError, TypeError, RecursionError, AttributeError
        ):  # what one way left another cannot change
            said.append(f"{name}: {WAYS[name](store, dice)}")
    return "; ".join(said)


def _documents(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("zarr.json") if path.is_file())


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file() or path.is_symlink())


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*at, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 4)):
            yield from _places(value[i], (*at, i))


def _write(path: Path, said: Any, dice: random.Random) -> None:
    """Write a document; most often as somebody would who knows of the digest."""
    from lossnav.storage import keys

    if dice.random() < 0.8 and isinstance(said, dict) and isinstance(said.get("attributes"), dict):
        with contextlib.suppress(ValueError, TypeError):
            said["attributes"][keys.DIGEST] = keys.digest_of(said)
    path.write_text(json.dumps(said))


def _change(path: Path, dice: random.Random, change: Callable[[Any, Any], Any], under: tuple[Any, ...] = ()) -> str:
    said = json.loads(path.read_text())
    start = said
    for key in under:
        start = start[key]
    at = dice.choice(list(_places(start)))
    inner = start
    for key in at[:-1]:
        inner = inner[key]
    what = change(inner, at[-1])
    _write(path, said, dice)
    return f"{path.parent.name}/{'.'.join(map(str, (*under, *at)))} {what}"[:200]


def _replace_with(dice: random.Random) -> Callable[[Any, Any], Any]:
    value = dice.choice(HOSTILE)

    def change(inner: Any, key: Any) -> str:
        inner[key] = value
        return f"= {str(value)[:40]}"

    return change


def _drop(inner: Any, key: Any) -> str:
    del inner[key]
    return "dropped"


def value_in_a_document(store: Path, dice: random.Random) -> str:
    return _change(dice.choice(_documents(store)), dice, _replace_with(dice))


def value_in_the_attributes(store: Path, dice: random.Random) -> str:
    return _change(store / "zarr.json", dice, _replace_with(dice), ("attributes",))


def value_of_one_part(store: Path, dice: random.Random) -> str:
    part = dice.choice(list(json.loads((store / "zarr.json").read_text())["attributes"]))
    return _change(store / "zarr.json", dice, _replace_with(dice), ("attributes", part))


def dropped(store: Path, dice: random.Random) -> str:
    return _change(dice.choice([store / "zarr.json", *_documents(store)]), dice, _drop)


def dropped_attribute(store: Path, dice: random.Random) -> str:
    return _change(store / "zarr.json", dice, _drop, ("attributes",))


def scaled_number(store: Path, dice: random.Random) -> str:
    factor = dice.choice([-1, 0, 1e9, 1e300, 0.5, 2])

    def change(inner: Any, key: Any) -> str:
        if isinstance(inner[key], int | float):
            inner[key] = inner[key] * factor
        elif isinstance(inner[key], list):
            inner[key] = inner[key] * 2 if factor != 0 else inner[key][:-1]
        else:
            inner[key] = [inner[key]]
        return f"x {factor:g}"

    return _change(dice.choice([store / "zarr.json", *_documents(store)]), dice, change)


def truncated(store: Path, dice: random.Random) -> str:
    path = dice.choice(_files(store))
    whole = path.read_bytes()
    path.write_bytes(whole[: dice.randrange(len(whole) + 1)])
    return path.relative_to(store).as_posix()


def flipped(store: Path, dice: random.Random) -> str:
    path = dice.choice(_files(store))
    whole = bytearray(path.read_bytes())
    at = dice.randrange(len(whole))
    whole[at] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(whole))
    return path.relative_to(store).as_posix()


def garbage(store: Path, dice: random.Random) -> str:
    path = dice.choice(_files(store))
    path.write_bytes(dice.randbytes(dice.choice([0, 1, 10, 1000, 100_000])))
    return path.relative_to(store).as_posix()


def nested(store: Path, dice: random.Random) -> str:
    path = dice.choice(_documents(store))
    path.write_text("[" * 100_000 if dice.random() < 0.5 else '{"a":' * 5_000 + "1" + "}" * 5_000)
    return path.relative_to(store).as_posix()


def removed(store: Path, dice: random.Random) -> str:
    path = dice.choice(_files(store))
    path.unlink()
    return path.relative_to(store).as_posix()


def removed_folder(store: Path, dice: random.Random) -> str:
    path = dice.choice(sorted(path for path in store.rglob("*") if path.is_dir()))
    shutil.rmtree(path)
    return path.relative_to(store).as_posix()


def folder_for_a_file(store: Path, dice: random.Random) -> str:
    path = dice.choice(_files(store))
    path.unlink()
    path.mkdir()
    return path.relative_to(store).as_posix()


def linked(store: Path, dice: random.Random) -> str:
    path = dice.choice(sorted(path for path in store.rglob("*")))
    target = dice.choice(["/nowhere/at/all", path.name, "..", "/dev/null", "/dev/zero"])
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)
    return f"{path.relative_to(store).as_posix()} -> {target}"


def _array_documents(store: Path) -> list[Path]:
    return [path for path in _documents(store) if json.loads(path.read_text()).get("node_type") == "array"]


def huge(store: Path, dice: random.Random) -> str:
    """One array, or all of those at the top, declare far more than there is."""
    size = dice.choice([18_000, 10**5, 10**9, 2**62, 2**70])
    paths = _array_documents(store)
    chosen = paths if dice.random() < 0.5 else [dice.choice(paths)]
    for path in chosen:
        said = json.loads(path.read_text())
        said["shape"] = [size] * len(said["shape"])
        if dice.random() < 0.3:
            said["chunk_grid"]["configuration"]["chunk_shape"] = [size] * len(said["shape"])
        _write(path, said, dice)
    return f"{len(chosen)} arrays of {size}"


def other_type(store: Path, dice: random.Random) -> str:
    path = dice.choice(_array_documents(store))
    said = json.loads(path.read_text())
    said["data_type"] = dice.choice(["int8", "float32", "complex128", "string", "bool", "nothing", "float64", "r64"])
    _write(path, said, dice)
    return f"{path.parent.name}: {said['data_type']}"


def endless_journal(store: Path, dice: random.Random) -> str:
    import zarr

    root = zarr.open_group(store, mode="r+")
    columns = ["status", *(f"coordinate {i}" for i in range(dice.choice([0, 1, 2, 5]))), "loss"]
    rows = dice.choice([1024, 1, 10**6])
    root.require_group("journal").create_array(
        dice.choice(["00000009-0001", "x", "00000000000000000001-7-0000", "9" * 8 + "-1"]),
        shape=(rows * dice.choice([10**9, 10**15]), len(columns)), chunks=(rows, len(columns)), dtype="float64",
        fill_value=dice.choice([1.0, 0.0, float("inf")]), attributes={"columns": columns},
    )  # fmt: skip
    return f"of {rows} rows a tile"


def wrong_journal(store: Path, dice: random.Random) -> str:
    import numpy as np
    import zarr

    root = zarr.open_group(store, mode="r+")
    k = len(root.attrs["chart"]["dims"])  # type: ignore[index, call-overload, arg-type]
    rows = np.array(
        [[dice.choice([1, 2, 3, 7, -1, 1e300]), *[dice.choice([0.5, 1e300, float("inf"), -1.0])] * k, 0.5]] * 3
    )
    value = dice.choice(["loss", "x" * 250, "../a", "status", "a[9999999, 1]", "a[", "a[x]", "alpha"])
    array = root.require_group("journal").create_array(
        "00000099-0001", shape=(10**9, k + 2), chunks=(1024, k + 2), dtype="float64", fill_value=float("nan"),
        attributes={"columns": ["status", *(f"coordinate {i}" for i in range(k)), value]},
    )  # fmt: skip
    array[:3] = rows
    return "rows of another run"


def wrong_values(store: Path, dice: random.Random) -> str:
    """Values that no run writes, with right checksums."""
    import zarr

    root = zarr.open_group(store, mode="r+")
    name = dice.choice(sorted(root.array_keys()))
    array = root[name]
    values: Any = array[...]  # type: ignore[index]
    value = dice.choice([float("nan"), float("inf"), 1e308, -1e308, 0.0, 1e-320, 7.0, 250.0])
    if values.dtype.kind in "ui":
        value = dice.choice([0, 1, 2, 3, 4, 255])
    if dice.random() < 0.5:
        values[...] = value
    else:
        values.reshape(-1)[dice.randrange(values.size)] = value
    array[...] = values  # type: ignore[index]
    return f"{name}: {value}"


def long_name(store: Path, dice: random.Random) -> str:
    path = dice.choice(sorted(path.parent for path in _documents(store) if path.parent != store))
    path.rename(
        path.with_name(dice.choice(["x" * 250, "a b", "é" * 60, "-", "loss_se", "sample_loss", "status", "point"]))
    )
    return path.name


def another_schema(store: Path, dice: random.Random) -> str:
    said = json.loads((store / "zarr.json").read_text())
    said["attributes"]["schema_version"] = dice.choice([0, 2, 10**30, -1, "1", 1.0, None, True])
    _write(store / "zarr.json", said, dice)
    return str(said["attributes"]["schema_version"])


def another_kind(store: Path, dice: random.Random) -> str:
    said = json.loads((store / "zarr.json").read_text())["attributes"]
    whole = json.loads((store / "zarr.json").read_text())
    recipe: dict[str, Any] = {
        "kind": dice.choice(["pca", "hessian", "through", "between", "moment", "gradient", "given", "random", "🙂"])
    }
    recipe |= {
        key: dice.choice(HOSTILE)
        for key in dice.sample(
            ["index", "explained", "random_walk", "eigenvalue", "points", "n", "norm", "seed", "scale", "exclude"], 4
        )
    }
    whole["attributes"]["chart"]["directions"] = [recipe] * len(said["chart"]["dims"])
    _write(store / "zarr.json", whole, dice)
    return str(recipe)[:80]


def bomb(store: Path, dice: random.Random) -> str:
    """A chunk that says it is large when it is unpacked."""
    paths = [path for path in _files(store) if "c" in path.parts[-3:] and path.name != "zarr.json"]
    path = dice.choice(paths)
    path.write_bytes(base64.b64decode("KLUv/aAAAABAEAAAKLUv/Q==") + bytes(64))
    return path.relative_to(store).as_posix()


# ---------------------------------------------------------------------- what would run if it were let


def mark_of(store: Path) -> Path:
    """The file that is there once code of a store was run."""
    return store.parent / "executed"


class _Running:
    """Unpickled, it leaves the mark."""

    def __init__(self, store: Path) -> None:
        self._mark = mark_of(store)

    def __reduce__(self) -> Any:
        return open, (str(self._mark), "w")


def names_code(store: Path, dice: random.Random) -> str:
    """The store says that its objective is made by code that came with it, that lies elsewhere, or is the system's."""
    code = f"open({str(mark_of(store))!r}, 'w')\nfrom benchmarks.chaos_mutations import make_objective\n{_JOB}"
    inside, outside = store / "job.py", store.parent.parent.parent / "outside" / "job.py"
    package = store / "package" / "__init__.py"
    for path in (inside, outside, package):
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    link = store.parent / f"linked-{store.stem}.py"
    link.unlink(missing_ok=True)
    link.symlink_to(inside)
    spec = dice.choice([
        f"{inside}:objective", f"{outside}:objective", f"{link}:objective", f"{store.name}/job.py:objective",
        f"{store.parent}/x/../{store.name}/job.py:objective", f"{store.name}.job:objective", "os:abort",
        "job:objective\x00", f"{package.parent}:objective", "antigravity:geohash", "zoo:../job.py",
        f"{inside}:__init__",
    ])  # fmt: skip
    said = json.loads((store / "zarr.json").read_text())
    said["attributes"]["objective"]["origin"] = {"spec": spec, "checkpoint": None, "data_root": None}
    _write(store / "zarr.json", said, dice)
    return spec.replace(str(store.parent), "...").replace(str(outside.parent), "outside")


def pickled(store: Path, dice: random.Random) -> str:
    """A pickle in place of a file."""
    path = dice.choice(_files(store))
    path.write_bytes(pickle.dumps(_Running(store)))
    return path.relative_to(store).as_posix()


def pickling_codec(store: Path, dice: random.Random) -> str:
    """An array that says that it is unpickled to be read."""
    import zlib

    path = dice.choice(_array_documents(store))
    said = json.loads(path.read_text())
    name = dice.choice(["numcodecs.pickle", "pickle", "numcodecs.json2", "os.system", "numcodecs.zlib"])
    said["codecs"] = [{"name": name, "configuration": {"protocol": 5, "id": "pickle"}}]
    said["data_type"] = dice.choice([said["data_type"], "object", {"name": "numpy.object", "configuration": {}}])
    _write(path, said, dice)
    whole = pickle.dumps(_Running(store))
    for chunk in (path.parent / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(zlib.compress(whole) if name == "numcodecs.zlib" else whole)
    return f"{path.parent.name}: {name}"


def hostile_checkpoint(store: Path, dice: random.Random) -> str:
    """Weights, directions and points of the chart that are pickles."""
    import torch

    from lossnav._utils.paths import beside

    weights = store / "weights.pt"
    if dice.random() < 0.5:
        torch.save({"w": _Running(store)}, weights)
    else:
        weights.write_bytes(pickle.dumps(_Running(store)))
    shutil.copy(weights, beside(store))
    said = json.loads((store / "zarr.json").read_text())
    attributes = said["attributes"]
    if isinstance(attributes["objective"].get("origin"), dict):
        attributes["objective"]["origin"]["checkpoint"] = str(weights)
    recipe = {"kind": "through", "points": [str(weights)], "checkpoint": str(weights), "path": str(weights)}
    if dice.random() < 0.5:
        attributes["chart"]["directions"] = [recipe] * len(attributes["chart"]["dims"])
    _write(store / "zarr.json", said, dice)
    return "weights.pt"


WAYS: dict[str, Callable[[Path, random.Random], str]] = {
    function.__name__: function
    for function in (
        value_in_a_document, value_in_the_attributes, value_of_one_part, dropped, dropped_attribute, scaled_number,
        truncated, flipped, garbage, nested, removed, removed_folder, folder_for_a_file, linked, huge, other_type,
        endless_journal, wrong_journal, wrong_values, long_name, another_schema, another_kind, bomb,
        names_code, pickled, pickling_codec, hostile_checkpoint,
    )
}  # fmt: skip

OF_A_DISK = ("truncated", "flipped", "garbage", "removed", "removed_folder", "folder_for_a_file", "linked")


def damage(store: Path, dice: random.Random) -> str:
    """Damage a store as a disk does, which knows of no digest."""
    return _changed(store, [dice.choice(OF_A_DISK)], dice)
