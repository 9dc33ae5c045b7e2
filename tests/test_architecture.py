"""Who may import whom. One test a rule of the design."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lossnav

SOURCE = Path(lossnav.__file__).parent
VIEWING = tuple(  # of the explorer: what a stored surface is shown with
    f"explorer/{name}.py"
    for name in ("__init__", "app", "code", "desk", "export", "lattice", "security", "server", "session", "wire")
)
HEAVY = {"torch", "ray", "matplotlib", "xarray", "plotly", "pandas", "zarr", "sklearn"}
PLOTTING = {"matplotlib", "plotly"}
COMPUTING = (
    "objective.py", "calling.py", "measures.py", "directions.py", "components.py", "trajectory.py", "charts",
    "acceleration", "flatness",
)  # fmt: skip
JOINING = ("curvature/chart.py", "curvature/spectra.py")  # these know both worlds, as evaluation does
OWNERS = {  # who may import an optional or heavy package at all
    "ray": {"engines/cluster.py", "engines/keeper.py", "engines/ray.py"},
    "plotly": {"plots"},
    "matplotlib": {"plots"},
    "starlette": {"explorer"},
    "uvicorn": {"explorer/server.py"},
    "websockets": {"explorer/server.py"},
    "gudhi": {"topology.py"},
    "sklearn": {"zoo/data.py"},
    "lightning": {"recording.py"},
    "transformers": {"recording.py"},
    "datasets": {"zoo/data.py"},
    "pyarrow": {"zoo/data.py"},
    "typer": {"cli"},
    "rich": {"progress.py", "live.py"},
}


@cache
def modules():
    return sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


@cache
def imports(path, everywhere=False):
    """Names imported by a file: at its top level, or anywhere in it; not those for the type checker alone."""
    tree = ast.parse((SOURCE / path).read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    inside_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped or (id(node) in inside_functions and not everywhere):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            if node.module.partition(".")[0] == "lossnav":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(names):
    return {name.partition(".")[0] for name in names}


def belongs(path, places):
    return any(path == place or path.startswith(f"{place}/") for place in places)


def ours(names, *parts):
    return {name for name in names if any(name == f"lossnav.{p}" or name.startswith(f"lossnav.{p}.") for p in parts)}


@pytest.mark.parametrize("path", ["errors.py", "params.py"])
def test_errors_and_params_import_nothing_of_ours(path):
    assert "lossnav" not in roots(imports(path, everywhere=True))


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in modules()
        if belongs(p, ("surface.py", "groups.py", "topology.py", "plots", "exports", "files.py", "relief.py", *VIEWING))
        or (belongs(p, ("reports",)) and not belongs(p, ("reports/measuring",)))  # which is for what is not stored
    ],
)
def test_the_viewing_side_never_imports_torch(path):
    assert "torch" not in roots(imports(path, everywhere=True))


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if belongs(p, COMPUTING) or (belongs(p, ("curvature",)) and p not in JOINING)],
)
def test_the_computing_side_never_imports_xarray_or_plots(path):
    names = imports(path, everywhere=True)
    assert not roots(names) & {"xarray", *PLOTTING}
    assert not ours(names, "surface", "plots")


def test_what_looks_at_a_stored_surface_imports_nothing_that_computes():
    for path in VIEWING:
        names = ours(
            imports(path), "objective", "charts", "engines", "evaluation", "acceleration", "curvature", "directions"
        )
        live = ours(
            imports(path), *(f"explorer.{name}" for name in ("live", "ground", "starting", "travel", "ball", "probing"))
        )
        assert not names | live, path


@pytest.mark.parametrize("path", [p for p in modules() if belongs(p, ("samplers",))])
def test_samplers_know_coordinates_only(path):
    names = imports(path, everywhere=True)
    assert "torch" not in roots(names)
    assert not ours(names, "params", "objective", "charts", "directions", "engines", "surface", "evaluation")


@pytest.mark.parametrize("path", [p for p in modules() if belongs(p, ("engines",))])
def test_engines_know_functions_and_points_only(path):
    assert not ours(imports(path, everywhere=True), "charts", "directions", "samplers", "surface", "evaluation")


def test_only_evaluation_knows_all_four():
    four = ("charts", "samplers", "engines", "objective")
    knows_all = [
        path
        for path in modules()
        if all(ours(imports(path, everywhere=True), noun) for noun in four) and path != "__init__.py"
    ]
    assert knows_all == ["evaluation.py"]


@pytest.mark.parametrize("package", OWNERS)
def test_optional_packages_are_imported_by_their_owner_alone(package):
    users = [path for path in modules() if package in roots(imports(path, everywhere=True))]
    assert all(belongs(path, OWNERS[package]) for path in users), users
    if package not in ("typer", "rich"):
        at_the_top = [path for path in modules() if package in roots(imports(path))]
        assert not at_the_top, f"{package} is imported before it is used"


@pytest.mark.parametrize(
    "path", [p for p in modules() if p != "__main__.py" and not p.startswith(("cli/", "explorer"))]
)
def test_cli_and_explorer_are_leaves(path):
    assert not ours(imports(path, everywhere=True), "cli", "explorer")


def test_the_cli_contains_no_numerics():
    for path in (p for p in modules() if belongs(p, ("cli",))):
        assert not roots(imports(path, everywhere=True)) & {"torch", "numpy", "scipy", "xarray"}, path


@pytest.mark.parametrize(
    "command", ["import lossnav", "from lossnav.cli import app; app(['--help'], standalone_mode=False)"]
)
def test_arrival_is_light(command):
    code = f"import sys\n{command}\nprint('loaded:', *sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_nothing_depends_on_what_replaces_torch():
    text = (SOURCE.parent.parent / "pyproject.toml").read_text()
    for package in ("torchvision", "timm", "backpack", "curvlinops"):
        assert package not in text.lower()
        assert not [path for path in modules() if package in roots(imports(path, everywhere=True))]


def test_every_public_name_is_there_and_documented():
    for name in lossnav.__all__:
        value = getattr(lossnav, name)
        assert name.startswith("__") or value.__doc__, name
    assert dir(lossnav) == sorted(lossnav.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lossnav.nothing


def test_the_error_tree_is_drawn_at_the_top():
    errors = importlib.import_module("lossnav.errors")
    names = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert len(names) > 20
    assert all(name in errors.__doc__ for name in names)
