"""Who may import whom: one table, the rows of the house, and what follows from it."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lossnav

SOURCE = Path(lossnav.__file__).parent

# A row may import the rows above it, never one below or beside it; imports inside functions count.
HOUSE = (
    ("errors", "params", "_version"),  # the ground
    ("_utils", "engines"),  # what knows no noun; "run this function at these points"
    ("storage",),
    ("samplers",),
    ("surface",),
    ("checkpoints",),
    ("objective",),
    ("curvature", "trajectory", "zoo"),
    ("directions", "symmetry"),
    ("specs",),
    ("charts",),
    ("acceleration", "sharpness_measures"),
    ("evaluation",),
    ("reports",),
    ("plots",),
    ("explorer", "exports"),
    ("reproductions", "testing"),
    ("cli",),
)
ROW = {name: i for i, row in enumerate(HOUSE) for name in row}
FACE = ("", "__main__")  # know all, and nobody knows them
WITHOUT_TORCH = ("samplers", "storage", "surface", "reports", "plots", "exports", "explorer", "cli")
BUT = ("reports/measuring", "explorer/live")  # these are for what is not stored
WITHOUT_DATASETS = (
    "objective",
    "directions",
    "symmetry",
    "trajectory",
    "charts",
    "acceleration",
    "sharpness_measures",
    "curvature",
)
HEAVY = {"torch", "ray", "matplotlib", "xarray", "plotly", "pandas", "zarr", "sklearn"}
OWNERS = {  # who may import an optional or heavy package at all
    "ray": {"engines/cluster.py", "engines/keeper.py", "engines/ray.py"},
    "plotly": {"plots"},
    "matplotlib": {"plots"},
    "starlette": {"explorer"},
    "uvicorn": {"explorer/server/server.py"},
    "websockets": {"explorer/server/server.py"},
    "sklearn": {"zoo/data.py"},
    "lightning": {"trajectory/callbacks.py"},
    "transformers": {"trajectory/callbacks.py"},
    "datasets": {"zoo/data.py"},
    "pyarrow": {"zoo/data.py"},
    "typer": {"cli"},
    "rich": {"_utils/progress.py", "cli/terminal_map.py"},
}


# ---------------------------------------------------------------------- reading the sources


@cache
def sources():
    return {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}


def module_of(path):
    return path.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


@cache
def imports(text, everywhere=True):
    """Pairs of a module and a name (or none) that a text imports; not those for the type checker alone."""
    tree = ast.parse(text)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        or (not everywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def packages(text, everywhere=True):
    return {module.partition(".")[0] for module, _ in imports(text, everywhere)}


def ours(path, text, known):
    """Modules of ours that a file imports, as ``charts.base``, with the names it takes from them."""
    for module, name in imports(text):
        if module.partition(".")[0] == "lossnav":
            base = module[8:]
            whole = f"{base}.{name}".lstrip(".")
            yield (whole, None) if name and whole in known else (base, name)


def belongs(path, places):
    return any(path == place or path.startswith(f"{place}/") for place in places)


# ---------------------------------------------------------------------- the table


def broken(files):
    """What in some sources, text by path, is against the table."""
    known = {module_of(path) for path in sources()} | {module_of(path) for path in files}
    for path, text in files.items():
        mine = module_of(path).partition(".")[0]
        if mine in FACE:
            continue
        for module, name in ours(path, text, known):
            other = module.partition(".")[0]
            if other == "":
                yield f"{path} imports the face of the package ({name})"
            elif other not in ROW or mine not in ROW:
                yield f"{path}: {mine} or {other} is not in the table"
            elif other != mine and ROW[other] >= ROW[mine]:
                yield f"{path} imports {module}, which is not above it"
            private = [part for part in (*module.split(".")[1:], name or "") if part.startswith("_")]
            if other != mine and private and name != "__version__":
                yield f"{path} imports {module}.{name or ''}, which is private"


def defined(text):
    """Private attributes and names that a text gives to something of its own."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


OF_TORCH = {"_parameters", "_version"}


def pried_into(files):
    """Private attributes that one package of some sources reads of another's objects."""
    owners = {}
    for path, text in files.items():
        for name in defined(text):
            if name.startswith("_") and not name.startswith("__"):
                owners.setdefault(name, set()).add(path.partition("/")[0])
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            theirs = isinstance(node, ast.Attribute) and node.attr not in OF_TORCH and owners.get(node.attr)
            if theirs and path.partition("/")[0] not in theirs:
                yield f"{path} reads {ast.unparse(node)}"


def circles(files):
    """Modules that import each other, round about, in some sources."""
    known = {module_of(path) for path in files}
    graph = {
        module_of(path): {module for module, _ in ours(path, text, known) if module in known}
        for path, text in files.items()
    }
    done, found = set(), []

    def visit(module, above):
        if module in above:
            found.append([*above[above.index(module) :], module])
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, [*above, module])
            done.add(module)

    for module in graph:
        if module not in FACE:
            visit(module, [])
    return found


def test_every_import_is_of_a_row_above():
    assert list(broken(sources())) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("samplers/new.py", "from lossnav.objective import Objective"),  # below
        ("samplers/new.py", "def f():\n    from lossnav.objective import Objective"),  # inside a function
        ("exports/new.py", "from lossnav.explorer import explore"),  # beside
        ("charts/new.py", "import lossnav"),  # the face
        ("charts/new.py", "from lossnav import Objective"),
        ("charts/new.py", "from lossnav.directions._random import random"),  # a private module
        ("charts/new.py", "from lossnav.objective.truth import _fresh"),  # a private name
        ("elsewhere/new.py", "from lossnav.errors import LossnavError"),  # a folder without a row
    ],
)
def test_the_table_is_held(path, line):
    assert list(broken({path: line}))
    assert not list(broken({"charts/new.py": "from lossnav.objective.objective import Objective"}))


def test_no_package_reads_a_private_attribute_of_anothers():
    assert list(pried_into(sources())) == []
    a = "class A:\n    def __init__(self):\n        self._x = 1"
    assert list(pried_into({"one/a.py": a, "two/b.py": "def f(a):\n    return a._x"})) == ["two/b.py reads a._x"]
    assert list(pried_into({"one/a.py": a, "one/b.py": "def f(a):\n    return a._x"})) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circles(sources()) == []
    assert circles({"a.py": "from lossnav import b", "b.py": "def f():\n    from lossnav.a import x"})


def test_the_root_is_short_and_every_folder_has_a_row():
    assert len([path for path in SOURCE.iterdir() if path.is_file()]) <= 8
    folders = {path.name for path in SOURCE.iterdir() if any(path.rglob("*.py"))}
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert folders | files == set(ROW)


def named_twice(files):
    """Classes and types whose name, underscores aside, means two things in some sources."""
    found = {}
    for path, text in files.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name.lstrip("_"), set()).add(path)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id.lstrip("_")
                if name[:1].isupper() and not name.isupper():  # a type that has a name
                    found.setdefault(name, set()).add(ast.unparse(node.value))
    return sorted(name for name, meanings in found.items() if len(meanings) > 1)


LONG = 450  # lines


def test_a_long_file_says_why_in_its_head():
    head = re.compile(r"longer\s+(//\s+)?than", re.MULTILINE)
    files = [path for end in ("*.py", "*.js") for path in SOURCE.rglob(end)]
    long = [path for path in files if path.read_text().count("\n") > LONG]
    assert len(files) > 300
    assert all(head.search("\n".join(path.read_text().splitlines()[:12])) for path in long), long


def test_one_name_has_one_meaning():
    assert named_twice(sources()) == []
    assert named_twice({"a.py": "class Place:\n    pass", "b.py": "_Place = str | None"}) == ["Place"]
    assert named_twice({"a.py": "Array = list[int]", "b.py": "Array = list[int]"}) == []


# ---------------------------------------------------------------------- where the law of a file is found

TESTS = Path(__file__).parent
OF_NO_FILE = ("chaos", "real_models")  # these are about all of it


def astray(tests, modules):
    """Tests whose name does not begin with that of a module in the same place, or of the folder itself."""
    for path in tests:
        *folders, name = path.removesuffix(".py").split("/")
        name = name.removeprefix("test_")
        here = "/".join(folders)
        own = {module.rpartition("/")[2] for module in modules if module.rpartition("/")[0] == here}
        own |= {folders[-1], *(f"{folder}_{module}" for folder in folders for module in own)}
        own |= {"explorer_page"} if here == "explorer/page" else set()
        if not any(name == each or name.startswith(f"{each}_") for each in own):
            yield path


def test_tests_lie_where_their_sources_lie():
    modules = {path.removesuffix(".py") for path in sources()}
    modules |= {module.removesuffix("/__init__") for module in modules}
    tests = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")]
    tests = [path for path in tests if "/" in path and not belongs(path, OF_NO_FILE)]
    assert list(astray(tests, modules)) == []
    assert list(astray(["charts/test_affine_ends.py", "charts/test_lanczos.py"], {"charts/affine"})) == [
        "charts/test_lanczos.py"
    ]


# ---------------------------------------------------------------------- what packages are free of


@pytest.mark.parametrize(
    "path", [path for path in sources() if belongs(path, WITHOUT_TORCH) and not belongs(path, BUT)]
)
def test_what_is_stored_is_seen_without_torch(path):
    assert "torch" not in packages(sources()[path])
    if belongs(path, ("cli",)) and path != "cli/terminal_map.py":  # which draws numbers
        assert not packages(sources()[path]) & {"numpy", "scipy"}


@pytest.mark.parametrize("path", [path for path in sources() if belongs(path, WITHOUT_DATASETS)])
def test_what_computes_knows_neither_datasets_nor_pictures(path):
    assert not packages(sources()[path]) & {"xarray", "matplotlib", "plotly"}


@pytest.mark.parametrize(
    "path", [path for path in sources() if belongs(path, ("explorer",)) and not belongs(path, BUT)]
)
def test_what_shows_a_stored_surface_loads_nothing_that_computes(path):
    computing = {"objective", "charts", "engines", "evaluation", "acceleration", "curvature", "directions"}
    loaded = {module for module, _ in imports(sources()[path], everywhere=False)}
    assert not {module.split(".")[1] for module in loaded if module.startswith("lossnav.")} & computing
    assert not any(module.startswith("lossnav.explorer.live") for module in loaded)


@pytest.mark.parametrize("package", OWNERS)
def test_optional_packages_are_imported_by_their_owner_alone(package):
    users = [path for path, text in sources().items() if package in packages(text)]
    assert all(belongs(path, OWNERS[package]) for path in users), users
    if package not in ("typer", "rich"):
        at_the_top = [path for path, text in sources().items() if package in packages(text, everywhere=False)]
        assert not at_the_top, f"{package} is imported before it is used"


@pytest.mark.parametrize(
    "command", ["import lossnav", "from lossnav.cli import app; app(['--help'], standalone_mode=False)"]
)
def test_arrival_is_light(command):
    code = f"import sys\n{command}\nprint('loaded:', *sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_what_is_not_needed_yet_is_not_loaded():
    late = {"scipy", "pandas", "xarray", "zarr", "sympy", "pyarrow", "rich"}
    code = "import sys\nimport lossnav as ln\nln.Objective; ln.evaluate\n"
    code += f"print('loaded:', *sorted(set(sys.modules) & {late}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_nothing_depends_on_what_replaces_torch():
    text = (SOURCE.parent.parent / "pyproject.toml").read_text()
    for package in ("torchvision", "timm", "backpack", "curvlinops"):
        assert package not in text.lower()
        assert not [path for path, source in sources().items() if package in packages(source)]


# ---------------------------------------------------------------------- the face


def test_every_public_name_is_there_and_documented():
    for name in lossnav.__all__:
        value = getattr(lossnav, name)
        assert name.startswith("__") or value.__doc__, name
    assert dir(lossnav) == sorted(lossnav.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lossnav.nothing


def lacking(value):
    """What the docstring of a public class or function does not have."""
    text = inspect.getdoc(value) or ""
    given = [
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    wanted = {"Raises", "Examples"} | ({"Parameters"} if given else set())
    wanted |= set() if inspect.isclass(value) else {"Returns"}
    if "Yields\n---" in text:
        wanted.discard("Returns")
    if inspect.isclass(value) and "Attributes\n---" in text:  # of a dataclass, which are its parameters
        wanted.discard("Parameters")
    return [f"{name}: section" for name in sorted(wanted) if f"{name}\n---" not in text] + [
        f"{name}: parameter" for name in given if not re.search(rf"\b{name}\b", text)
    ]


def test_docstrings_say_what_is_given_returned_and_raised_and_show_it():
    for name in lossnav.__all__:
        value = getattr(lossnav, name)
        if callable(value) and not (isinstance(value, type) and issubclass(value, BaseException)):
            found = [what for what in lacking(value) if not (name == "Plan" and what == "Raises: section")]
            assert found == [], name

    def nothing(x):
        """Do nothing."""

    assert len(lacking(nothing)) == 5


def test_the_error_tree_is_drawn_at_the_top():
    errors = importlib.import_module("lossnav.errors")
    names = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert len(names) > 20
    assert all(name in errors.__doc__ for name in names)
