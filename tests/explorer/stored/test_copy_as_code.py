"""What is copied as code or written as a page is data: whatever names a store has, nothing of them is run."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lossnav as ln
from conftest import made
from living import bowl
from lossnav.explorer.stored.copy_as_code import code_of
from lossnav.explorer.stored.export_html import export_html
from lossnav.explorer.stored.place import Place
from lossnav.explorer.stored.session import Session, open_session

pytest_plugins = ["living"]

CANARY = "open('canary','w').close()"
NAMES = [
    f"a'); {CANARY} #",
    f'a"); {CANARY} #',
    f"a\n{CANARY}\n#",
    f"a\\'); {CANARY} #",
    f"a\u2028{CANARY}\u2029",
    f"a\r{CANARY}",
    f"a''' + {CANARY} + '''",
    f"{{{CANARY}}}",
    f"a=1); {CANARY}; (b",
    "</script><script>alert(1)</script><!--",
    "lambda",
    "method",
    "x" * 250,
    "κλ\x00\x1b31m",
]
CALLS = {"open", "slice", "Grid", "evaluate", "random", "Line", "Plane", "contour", "show", "line", "heatmap", "sel"}
CALLS |= {"load_objective", "rebuild", "chart_of", "to_grid", "surface", "over_seeds", "update_traces"}


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("canary").exists()


def parsed(code):
    """The code is Python, and calls nothing but what we call."""
    tree = ast.parse(code)
    compile(code, "copied", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            whose = (
                node.func.value.id if isinstance(node.func, ast.Attribute) and hasattr(node.func.value, "id") else ""
            )
            assert name in CALLS and (name != "open" or whose == "ln"), ast.unparse(node)
        assert not isinstance(node, ast.Lambda)
    return code


def run(code):
    space = {}
    exec(code.replace(".show()", ""), space)
    return space


def viewed(n=5, **attrs):
    x = np.linspace(-1, 2, n)
    return made(np.add.outer(x**2, x**2) + 0.1, **attrs)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_of_any_name(tmp_path, name):
    if "\0" in name or "/" in name:
        name = name.replace("\0", "").replace("/", "|")
    surface = viewed()
    surface[name] = surface["accuracy"] * np.linspace(0.5, 1, 5)[:, None]
    place = Place(0, surface)
    session = Session([place], "t")
    place.store = tmp_path / "run.zarr"
    code = parsed(code_of(session, 0, {"metric": name, "kind": "contour"}))
    assert f"variable={name!r}" in code
    space = {"ln": ln, "surface": surface}
    exec(code.splitlines()[-1].replace(".show()", ""), space)  # the very picture, of that metric
    export_html(session)


@pytest.mark.parametrize("name", NAMES)
def test_coordinates_of_any_name_of_a_stored_surface(name):
    surface = viewed().rename(alpha=name)
    surface.attrs["chart"] = surface.attrs["chart"] | {"dims": [name, "beta"]}
    place = Place(0, surface)
    place.store = Path("run.zarr")
    code = parsed(code_of(Session([place], "t", Path("run.zarr")), 0, {"ranges": [[0, 1], [-1, 2]]}))
    cut = next(line for line in code.splitlines() if ".sel(" in line)
    space = {"surface": surface}
    exec(cut, space)  # it does what it says
    np.testing.assert_array_equal(space["surface"][name], surface[name].values[2:3])


@pytest.mark.parametrize("name", NAMES)
def test_a_path_and_a_title_of_any_name(tmp_path, name):
    name = name.replace("/", "|").replace("\0", "")[:200]
    path = viewed().lossnav.save(tmp_path / name / "run.zarr") if (tmp_path / name).mkdir() is None else None
    session = open_session(path)
    session.title = name
    code = parsed(code_of(session, 0, {"kind": "surface"}))
    assert run(code)["surface"].sizes == {"alpha": 5, "beta": 5}
    text = export_html(session)
    (found,) = re.findall(r'id="lossnav-data">(.*?)</script>', text, re.S)
    said = json.loads(found)["places"][0]
    assert said["session"]["title"] == name and said["code"] == code_of(session, 0, {}, shared=True)
    assert "\u2028" not in found and "<" not in found


def test_the_code_of_a_view_draws_with_its_colours_range_and_levels(tmp_path):
    path = viewed().lossnav.save(tmp_path / "run.zarr")
    view = {"log": True, "colors": "cividis", "points": True, "domain": [-0.5, 0.5], "contours": [-0.4, 0.2]}
    for kind, ends in ("contour", ("zmin", "zmax")), ("heatmap", ("zmin", "zmax")), ("surface", ("cmin", "cmax")):
        code = parsed(code_of(open_session(path), 0, view | {"kind": kind}))
        space = run(code.replace("ln.plot", "figure = ln.plot"))
        trace = space["figure"].data[0]
        assert [trace[end] for end in ends] == [-0.5, 0.5]
        assert trace.colorscale[0][1] == "#00224e"
        if kind == "contour":
            assert (trace.contours.start, trace.contours.end, trace.contours.size) == (-0.4, 0.5, 0.2)
            assert trace.contours.coloring == "lines"
        assert ("points=True" in code) and len(space["figure"].data) > 1
    bad = {"domain": [1, 0], "contours": ["a", 1], "colors": "x'", "slice": "y", "points": 1}
    assert "update_traces" not in parsed(code_of(open_session(path), 0, bad))


def test_the_code_of_a_volume_draws_its_slice(tmp_path):
    x = np.linspace(-1, 2, 5)
    values = np.add.outer(np.add.outer(x, 10 * x), 100 * x)
    path = made(values, dims=("alpha", "beta", "gamma")).lossnav.save(tmp_path / "run.zarr")
    gamma = open_session(path).places[0].surface["gamma"].values
    code = parsed(code_of(open_session(path), 0, {"slice": gamma[3] + 0.01, "log": False}))
    space = run(code.replace("ln.plot", "figure = ln.plot"))
    np.testing.assert_allclose(space["figure"].data[0].z, values[:, :, 3].T)


def test_a_page_that_is_shared_tells_no_folder_of_the_author(tmp_path):
    (tmp_path / "secret").mkdir()
    path = viewed().lossnav.save(tmp_path / "secret" / "run.zarr")
    text = export_html(open_session(path))
    assert "secret" not in text and str(tmp_path) not in text
    assert "ln.open('run.zarr')" in text
    assert "secret" in code_of(open_session(path), 0, {})  # where it is, it runs


HOSTILE = {"n": CANARY, "seed": CANARY, "distribution": f"normal'); {CANARY}", "exclude": [f"'); {CANARY}"]}


@pytest.mark.parametrize("spoilt", [*HOSTILE, "kind", "normalize", "orthogonal", "origin", "inf"])
def test_recipes_that_hold_code(spoilt, tmp_path):
    recipe = {"kind": "random", "n": 2, "seed": 0, "normalize": "filter", "distribution": "normal"}
    recipe |= {"orthogonal": True, "exclude": ["bias", "norm"]}
    surface = viewed()
    chart = {"kind": "Plane", "dims": ["alpha", "beta"]}
    objective = {"origin": {"spec": "m.py:objective"}}
    if spoilt == "kind":
        chart["kind"] = f"Plane(); {CANARY}; ln.Plane"
    elif spoilt == "origin":
        objective = {"origin": {"spec": f"m.py:o'); {CANARY}", "mode": f"'); {CANARY}", "params": [f"'{CANARY}"]}}
    elif spoilt == "inf":
        recipe["seed"] = float("inf")
    elif spoilt in HOSTILE:
        recipe[spoilt] = HOSTILE[spoilt]
    else:
        recipe[spoilt] = f"'); {CANARY} #"
    chart["directions"] = [recipe | {"index": i} for i in range(2)]
    place = Place(0, surface, grows=True)
    place.made_of = {"chart": chart, "objective": objective}
    place.store = tmp_path / "run.zarr"
    session = Session([place], "t", live=True)
    for view in (
        {},
        {"ranges": [[float("-inf"), 1], [0, float("inf")]]},
        {"ranges": [[1e999, 2]], "kind": ["contour"]},
    ):
        assert "inf)" not in parsed(code_of(session, 0, view))


@pytest.mark.parametrize("view", [{"ranges": [[10**400, 1], [0, 1]]}, {"kind": {}}, {"metric": 3}, {"log": "yes"}])
def test_a_view_that_is_none_is_left_out(view):
    place = Place(0, viewed())
    parsed(code_of(Session([place], "t"), 0, view))


def test_the_code_of_a_session_names_its_own_objective_and_not_the_stores(started, tmp_path):
    """A surface that lies beneath a session may say that its objective comes from anywhere."""
    objective, plane, _ = bowl()
    path = tmp_path / "run.zarr"
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)), store=path)
    document = path / "zarr.json"
    said = json.loads(document.read_text())
    said["attributes"]["objective"]["origin"] = {"spec": f"{path}/evil.py:objective"}
    del said["attributes"]["digest"], said["attributes"]["written"]  # as of a store from before there were any
    document.write_text(json.dumps(said))
    handler = started(objective, plane, store=path)
    code = parsed(code_of(handler.session, 0, {}))
    assert "evil" not in code and "objective = ..." in code


def test_the_code_of_a_session_evaluates_the_same(started, tmp_path, monkeypatch):
    """Also of an objective that is a part of its data, with options of its own."""
    model = """
import torch
import lossnav as ln

def objective():
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    return ln.Objective(torch.nn.Linear(3, 2), "mse", (x, x[:, :2]))
"""
    (tmp_path / "its model's.py").write_text(model)
    from lossnav.specs.objective_of import load_objective

    objective = load_objective(f"{tmp_path / chr(105)}ts model's.py:objective", params="weight").subset(30, seed=2)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=5))
    handler = started(objective, plane)
    space = run(code_of(handler.session, 0, {"ranges": [[-0.5, 0.5], [0, 1]]}).replace(", 65)", ", 3)"))
    mine = ln.evaluate(objective, plane, ln.Grid(alpha=(-0.5, 0.5, 3), beta=(0, 1, 3)))
    np.testing.assert_allclose(space["surface"]["loss"], mine["loss"], rtol=1e-6)
    assert torch.equal(space["objective"].params["weight"], objective.params["weight"])
