"""A store is data: code it names is run only where the user gives it again, or says yes, and never out of a store."""

import os
import pickle
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from typer.testing import CliRunner

import lossnav as ln
from lossnav.cli import app
from lossnav.errors import SpecError, UntrustedCodeError
from lossnav.specs import objective_of
from lossnav.specs.objective_of import load_objective
from lossnav.specs.trust import file_of, project_of

PROJECT = """
from pathlib import Path
import torch
import lossnav as ln

Path({mark!r}).touch()

def objective():
    return ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {{"x": torch.tensor([1.0, 2.0])}})

def other() -> None:
    Path({mark!r} + ".called").touch()

class Thing:
    def __init__(self):
        Path({mark!r} + ".made").touch()
"""
PLAIN = ln.Local(plan="plain")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a finished run in it, and a mark that shows whether its code was run."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("job.py").write_text(PROJECT.format(mark=str(tmp_path / "ran")))
    objective = load_objective("job.py:objective")
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 5)), store="run.zarr", engine=PLAIN, progress=False)
    forget(tmp_path)
    return tmp_path


def forget(tmp_path):
    for mark in tmp_path.glob("ran*"):
        mark.unlink()
    sys.modules.pop("job", None)


def ran(tmp_path):
    return sorted(mark.name for mark in tmp_path.glob("ran*"))


def names(store, spec):
    """Let a store name another SPEC."""
    group = zarr.open_group(store)
    said = dict(group.attrs["objective"])
    group.attrs["objective"] = said | {"origin": said["origin"] | {"spec": spec}}
    for name in ("digest", "written"):  # as of a store from before there were any
        group.attrs.pop(name, None)


def lossnav(*arguments):
    return CliRunner().invoke(app, list(arguments))


WAYS = [("resume", "run.zarr"), ("report", "run.zarr", "--measure")]


@pytest.mark.parametrize("way", WAYS, ids=["resume", "report"])
def test_without_a_word_nothing_is_run_and_the_command_is_printed(project, way):
    done = lossnav(*way)
    assert done.exit_code == 2 and ran(project) == []
    assert f"{project}/project/job.py:objective" in done.stderr and "--trust" in done.stderr
    assert f"--spec {project}/project/job.py:objective" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", WAYS, ids=["resume", "report"])
@pytest.mark.parametrize("word", [("--trust",), ("--spec", "job.py:objective")], ids=["trust", "spec"])
def test_a_word_is_enough_for_code_of_the_project(project, way, word):
    done = lossnav(*way, *word)
    assert done.exit_code == 0, done.stderr
    assert ran(project) == ["ran"]


def test_the_library_asks_for_the_same_word(project):
    with pytest.raises(UntrustedCodeError, match=r"job\.py:objective.*trust=True"):
        ln.resume("run.zarr")
    assert ran(project) == []
    asked = []
    with pytest.raises(UntrustedCodeError):
        ln.resume("run.zarr", trust=lambda shown: asked.append(shown))
    assert asked == [f"{project}/project/job.py:objective"] and ran(project) == []
    assert bool((ln.resume("run.zarr", trust=True, progress=False)["status"] == 1).all())
    forget(project)
    assert bool((ln.resume("run.zarr", spec="job.py:objective", progress=False)["status"] == 1).all())


@pytest.mark.parametrize(
    ("document", "is_ours"),
    [
        ("trajectory.json", '{"schema": "lossnav.trajectory"}'),
        ("session.json", '{"schema": "lossnav.explorer", "bookmarks": []}'),
        ("session.json", "damaged"),
        ("lease/zarr.json", "{}"),  # the folder of an ensemble's parts
        ("session.json", None),
    ],
)
def test_code_in_other_stores_of_ours_is_never_run(project, document, is_ours):
    place = Path("there") / document
    place.parent.mkdir(parents=True)
    place.write_text(is_ours or '{"cookie": 1}')  # the last one is a file of the user's that is called so too
    shutil.copy("job.py", "there/job.py")
    names("run.zarr", "there/job.py:objective")
    done = lossnav("resume", "run.zarr", "--trust")
    assert (ran(project) == []) == (is_ours is not None)
    assert done.exit_code == (0 if is_ours is None else 2), done.stderr


@pytest.mark.parametrize("way", WAYS, ids=["resume", "report"])
@pytest.mark.parametrize("place", ["run.zarr/job.py", "other.zarr/deep/job.py", "linked.py", "x/../run.zarr/job.py"])
def test_code_out_of_a_store_is_never_run(project, way, place):
    for store in ("run.zarr", "other.zarr/deep"):
        if store != "run.zarr":
            shutil.copytree("run.zarr", "other.zarr")
            Path(store).mkdir()
        shutil.copy("job.py", f"{store}/job.py")
    Path("linked.py").symlink_to("run.zarr/job.py")
    names("run.zarr", f"{place}:objective")
    done = lossnav(*way, "--trust")
    assert done.exit_code == 2 and "lies in a store" in done.stderr and ran(project) == []


@pytest.mark.parametrize("way", WAYS, ids=["resume", "report"])
def test_code_outside_of_the_project_is_not_run_on_a_yes(project, way):
    shutil.copy("job.py", project / "elsewhere.py")
    names("run.zarr", f"{project}/elsewhere.py:objective")
    done = lossnav(*way, "--trust")
    assert done.exit_code == 2 and "outside of your project" in done.stderr and ran(project) == []
    assert lossnav(*way, "--spec", f"{project}/elsewhere.py:objective").exit_code == 0


@pytest.mark.parametrize(
    "spec",
    ["os:getcwd", "shutil:rmtree", "antigravity:x", "this:s", "lossnav.cli:main", "torch.nn:Module", "no.such:x"],
)
def test_installed_modules_are_outside_and_are_not_imported(project, spec):
    names("run.zarr", spec)
    module = spec.partition(":")[0]
    before = module in sys.modules
    done = lossnav("resume", "run.zarr", "--trust")
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert (module in sys.modules) == before


def test_packages_are_found_without_being_imported(project):
    package = Path("package/inner")
    package.mkdir(parents=True)
    for init in (Path("package"), package):
        (init / "__init__.py").write_text(f"open({str(project / 'ran')!r}, 'w')")
    shutil.copy("job.py", package / "job.py")
    assert file_of("package.inner.job") == (package / "job.py").resolve()
    assert file_of("package.inner.nothing") is None and file_of("package..job") is None and file_of("") is None
    assert ran(project) == []
    names("run.zarr", "package.inner.job:objective")
    assert lossnav("resume", "run.zarr").exit_code == 2 and ran(project) == []
    assert lossnav("resume", "run.zarr", "--trust").exit_code == 0 and ran(project) == ["ran"]


@pytest.mark.parametrize("name", ["other", "Thing", "Path", "nothing"])
def test_the_type_is_looked_at_before_anything_is_called(project, name):
    with pytest.raises(SpecError):
        load_objective(f"job.py:{name}")
    assert ran(project) == ["ran"]  # the import alone
    names("run.zarr", f"job.py:{name}")
    assert lossnav("resume", "run.zarr", "--trust").exit_code == 2
    assert ran(project) == ["ran"]


def test_a_project_is_the_nearest_folder_that_says_so(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert project_of(inner) == inner
    (tmp_path / "a" / "pyproject.toml").touch()
    assert project_of(inner) == tmp_path / "a"


def test_the_zoo_is_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="lossnav train"):  # it gets as far as the missing weights
        objective_of.rebuild({"spec": "zoo:notebook-digits"}, None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code", "marks"), [(b"y\n", 0, ["ran"]), (b"n\n", 2, []), (b"\n", 2, [])])
def test_at_a_terminal_the_path_is_shown_and_asked_for(project, answer, code, marks):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lossnav", "resume", "run.zarr"], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE
    )
    os.close(theirs)
    said = b""
    while b"Run it?" not in said:
        said += os.read(ours, 1024)
    assert f"{project}/project/job.py:objective".encode() in said.replace(b"\r\n", b"")
    os.write(ours, answer)
    while True:
        try:
            if not os.read(ours, 1024):
                break
        except OSError:  # the terminal is closed
            break
    process.stdout.read()
    assert process.wait() == code
    assert ran(project) == marks
    os.close(ours)


class BuildsBySpec(ln.Local):
    """Plays `Ray(build="spec")` and its worker in one process: what is sent is pickled, and built from its SPEC."""

    def __init__(self):
        super().__init__(plan="plain")
        self.sent = []

    def prepare(self, function, probes, total):
        self.sent.append(pickle.dumps(function.by_spec()))
        forget(Path.cwd().parent)  # the worker is another process
        return super().prepare(pickle.loads(self.sent[-1])(), probes, total)


def unfinished():
    """Let one point of the run be evaluated again."""
    group = zarr.open_group("run.zarr")
    group["status"][2] = 0
    for name in ("digest", "written"):
        group.attrs.pop(name, None)


def hostile(tmp_path, place="evil.py"):
    """Let the store name another file, which gives the same objective and leaves marks of its own."""
    Path(place).write_text(PROJECT.format(mark=str(tmp_path / "ran.evil")))
    names("run.zarr", f"{place}:objective")


def test_workers_that_build_by_spec_are_sent_nothing_before_the_user_says_yes(project):
    hostile(project)
    engine = BuildsBySpec()
    for trust in (False, lambda shown: False):
        with pytest.raises(UntrustedCodeError, match=r"evil\.py:objective"):
            ln.resume("run.zarr", trust=trust, engine=engine, progress=False)
    hostile(project, "run.zarr/evil.py")
    with pytest.raises(UntrustedCodeError, match="lies in a store"):
        ln.resume("run.zarr", trust=True, engine=engine, progress=False)
    assert engine.sent == [] and ran(project) == []


def test_workers_build_the_spec_that_the_user_gave_and_not_the_one_of_the_store(project):
    for word in ({"spec": "job.py:objective"}, {"objective": load_objective("job.py:objective")}):
        unfinished()
        hostile(project)
        engine = BuildsBySpec()
        surface = ln.resume("run.zarr", engine=engine, progress=False, **word)
        assert bool((surface["status"] == 1).all())
        assert len(engine.sent) == 1 and b"evil" not in engine.sent[0] and b"job.py" in engine.sent[0]
        assert "ran.evil" not in ran(project)


def test_ray_is_not_reached_for_code_that_is_not_trusted(project, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    hostile(project)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a cluster was started"))
    with pytest.raises(UntrustedCodeError):
        ln.resume("run.zarr", engine=ln.Ray(build="spec"), progress=False)
    done = lossnav("resume", "run.zarr", "--engine", "ray")
    assert done.exit_code == 2 and "evil.py:objective" in done.stderr and ran(project) == []
