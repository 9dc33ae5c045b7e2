"""Stores that somebody damaged, or made to do harm: how they are made, and what the public commands do with them.

Everything is drawn by a seed. `make_stores` makes sound ones, `mutate` changes one, `visit` brings it through every
command in this process, with a bound on memory and on time. A command may refuse in one sentence (exit code 1, 2 or 3);
it may not show a traceback, hang, or take more than a gigabyte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MOST_CALLS = 2000  # of the model, where a command computes
SECONDS = 10  # a command may take
BYTES = 2**30  # it may take beyond what the process has

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**9, 10**18, 10**30, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"),
    float("inf"), "", "nan", "inf", "x", "x" * 250, "x" * 100_000, "../../../etc/passwd", "<script>alert(1)</script>",
    "\x00\x1b[2J", "alpha", "{0.__class__}", "%s%n", [], [[]], [0], [None], ["x"] * 3, [1e308, -1e308, 5],
    [float("nan")] * 3, [10**9, 10**9], [18_000, 18_000], {}, {"": ""}, {"kind": "nothing"}, {"kind": "pca"},
    {"kind": []}, [{"kind": "hessian"}, {"kind": "through"}],
]  # fmt: skip


_CALLS = [0]


class Visit(NamedTuple):
    """What came of a command: "fine", "refused", or what is a fault."""

    command: str
    outcome: str
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is none of what a command may do."""
        return self.outcome not in ("fine", "refused")


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
    from lossnav.store import Store

    folder.mkdir(parents=True, exist_ok=True)
    _CALLS[0] = -(10**9)
    objective, model, x = make_objective()
    quiet: dict[str, Any] = {"progress": False}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ln.Trajectory(model, store=folder / "run.trajectory", every=2) as trajectory:
        for epoch in range(12):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), x.sin())
            loss.backward()
            optimizer.step()
            trajectory.step(epoch=epoch, loss=loss)
    trajectory = ln.Trajectory.open(folder / "run.trajectory")
    _CALLS[0] = -(10**9)
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
    from lossnav.surface import rows_of

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
    return made


# ---------------------------------------------------------------------- damaged ones


def mutate(store: Path, dice: random.Random) -> str:
    """Change a store in one to three ways, and say which."""
    names = [dice.choice(sorted(WAYS)) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
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
    from lossnav import keys

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
    values = array[...]  # type: ignore[index]
    value = dice.choice([float("nan"), float("inf"), 1e308, -1e308, 0.0, 1e-320, 7.0, 250.0])
    if values.dtype.kind in "ui":  # type: ignore[union-attr]
        value = dice.choice([0, 1, 2, 3, 4, 255])
    if dice.random() < 0.5:
        values[...] = value  # type: ignore[index]
    else:
        values.reshape(-1)[dice.randrange(values.size)] = value  # type: ignore[union-attr]
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


WAYS: dict[str, Callable[[Path, random.Random], str]] = {
    function.__name__: function
    for function in (
        value_in_a_document, value_in_the_attributes, value_of_one_part, dropped, dropped_attribute, scaled_number,
        truncated, flipped, garbage, nested, removed, removed_folder, folder_for_a_file, linked, huge, other_type,
        endless_journal, wrong_journal, wrong_values, long_name, another_schema, another_kind, bomb,
    )
}  # fmt: skip


# ---------------------------------------------------------------------- what is done with them


def commands(store: Path, out: Path) -> dict[str, list[str]]:
    """What a user may type."""
    surface = str(store)
    return {
        "info": ["info", surface],
        "info --json": ["info", surface, "--json"],
        "info --verify": ["info", surface, "--verify"],
        "report": ["report", surface],
        "contour": ["plot", "contour", surface, "-o", str(out / "contour.png")],
        "heatmap": ["plot", "heatmap", surface, "-o", str(out / "heatmap.svg")],
        "line": ["plot", "line", surface, "-o", str(out / "line.html")],
        "surface": ["plot", "surface", surface, "-o", str(out / "surface.html")],
        "trajectory": ["plot", "contour", surface, "-o", str(out / "path.svg"), "--trajectory"],
        "spectrum": ["plot", "spectrum", surface, "-o", str(out / "spectrum.svg")],
        "csv": ["export", surface, str(out / "surface.csv")],
        "vti": ["export", surface, str(out / "surface.vti")],
        "glb": ["export", surface, str(out / "surface.glb")],
        "resume": ["resume", surface],
    }


class _TooLong(BaseException):
    pass


def _ring(number: int, frame: Any) -> None:
    raise _TooLong


def bound_memory() -> None:
    """Give this process so much memory beyond what it has."""
    import resource

    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        has = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (has + BYTES, has + BYTES))


def visit(store: Path, out: Path, only: set[str] | None = None) -> Iterator[Visit]:
    """Bring a store through every command; yield what came of each."""
    from typer.testing import CliRunner

    from lossnav.cli import app

    runner = CliRunner()

    def open_(name: str) -> Callable[[], None]:
        def run() -> None:
            import lossnav as ln
            from lossnav.explorer.session import open_session

            ln.open(store) if name == "open" else open_session(store)

        return run

    def go_on() -> None:
        import lossnav as ln

        _CALLS[0] = 0
        with contextlib.suppress(KeyboardInterrupt):
            ln.resume(store, make_objective()[0], progress=False)
        _CALLS[0] = -(10**9)

    runs: dict[str, Callable[[], Any]] = {"open": open_("open"), "explore": open_("explore")}
    for name, arguments in commands(store, out).items():
        runs[name] = lambda arguments=arguments: runner.invoke(app, arguments)
    runs["go on"] = go_on
    for name, run in runs.items():
        if only is None or name in only:
            yield Visit(name, *_outcome(run))


def _outcome(run: Callable[[], Any]) -> tuple[str, str]:
    import warnings

    from lossnav.errors import LossnavError

    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = run()
        error = None if result is None else result.exception
        if error is None or (isinstance(error, SystemExit) and result.exit_code in (0, 1, 2, 3)):
            said = "" if result is None else (result.stderr or "")
            if "Traceback" in said:
                return "traceback", said[-2000:]
            return ("fine", "") if error is None or not result.exit_code else ("refused", said.strip()[:300])
    except LossnavError as refused:
        return "refused", str(refused)[:300]
    except BaseException as raised:
        error = raised
    finally:
        signal.alarm(0)
    kind = {_TooLong: "hang", MemoryError: "memory"}.get(type(error), "traceback")
    return kind, "".join(traceback.format_exception(error))[-2500:]


def main(folder: str, first: int, last: int) -> None:
    """Visit the stores of some seeds; a line of JSON a store. Run in a process of its own."""
    base = Path(folder)
    sound = sorted(path for path in (base / "sound").glob("*.zarr"))
    out = base / "out"
    for store in sound:  # what is imported counts for no store
        for _ in visit(store, out):
            pass
    shutil.rmtree(base / "again", ignore_errors=True)
    make_stores(base / "again")  # and what is imported later
    bound_memory()
    for seed in range(first, last):
        dice = random.Random(seed)
        copy = base / f"mutated-{os.getpid()}.zarr"
        shutil.rmtree(copy, ignore_errors=True)
        chosen = dice.choice(sound)
        shutil.copytree(chosen, copy, symlinks=True)
        said = mutate(copy, dice)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        found = [each._asdict() for each in visit(copy, out) if each.outcome != "fine"]
        sys.stdout.write(json.dumps({"seed": seed, "store": chosen.name, "mutation": said, "visits": found}) + "\n")
        sys.stdout.flush()
    shutil.rmtree(copy, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
