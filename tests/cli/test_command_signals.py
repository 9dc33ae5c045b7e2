"""Ctrl-C and SIGTERM at any moment of a command: one line, its exit code, no traceback. Signals come by events."""

import os
import signal
import subprocess
import sys

import pytest

import lossnav as ln

# The signal arrives when a module is looked for the first time: in the middle of an import, at a place that is named.
AT_IMPORT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Signalling(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SIGNAL_AT"]:
            os.environ["SIGNAL_AT"] = ""
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Signalling())
"""
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
COMMAND = (sys.executable, "-m", "lossnav")


def run(folder, *arguments, number=signal.SIGINT, at="", site="", command=COMMAND, **environment):
    """A command in whose process `site` is run before anything else."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(site or AT_IMPORT)
    paths = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    known = {"PYTHONPATH": paths, "SIGNAL_AT": at, "SIGNAL": str(int(number))}
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=os.environ | known | environment,
        capture_output=True,
        text=True,
    )


def assert_stopped(done, number):
    assert done.returncode == SIGNALS[number], done.stderr
    assert done.stderr == "Stopped.\n"
    assert done.stdout == ""


# what a command imports, in this order: its own, the parser of options, arrays, the library underneath, the last of all
MODULES = (
    "lossnav.cli.command",
    "typer",
    "lossnav.errors",
    "numpy",
    "xarray",
    "pandas",
    "zarr",
    "lossnav.surface",
)

FEW = ("typer", "numpy", "lossnav.surface")


@pytest.mark.parametrize(
    "module", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in MODULES]
)
def test_ctrl_c_during_the_imports(module, stored):
    """Also during those that come when a module is first used."""
    assert_stopped(run(stored, "info", "run.zarr", at=module), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "module", "arguments"),
    [
        (signal.SIGTERM, "typer", ["info", "run.zarr"]),
        (signal.SIGTERM, "xarray", ["info", "run.zarr"]),
        (signal.SIGINT, "torch", ["evaluate", "a.py:b"]),
        (signal.SIGINT, "torch.nn.functional", ["train", "zoo:notebook-digits"]),
        (signal.SIGTERM, "torch", ["evaluate", "a.py:b"]),
        (signal.SIGINT, "lossnav.cli.options", ["--help"]),
    ],
)
def test_signals_during_the_imports_of_other_commands(number, module, arguments, stored):
    assert_stopped(run(stored, *arguments, number=number, at=module), number)


def test_the_installed_command_does_the_same(tmp_path):
    """What is installed as `lossnav` imports ``lossnav.cli`` and calls ``main``."""
    script = (sys.executable, "-c", "import sys; from lossnav.cli import main; sys.exit(main())")
    assert_stopped(run(tmp_path, "info", "run.zarr", at="typer", command=script), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_file_that_a_spec_names_is_an_exception_there(number, tmp_path):
    """The user's own code is no import: what it has begun is cleaned up by its own `finally`."""
    (tmp_path / "project.py").write_text(
        "import os\ntry:\n    os.kill(os.getpid(), int(os.environ['SIGNAL']))\n    b = 1\nfinally:\n"
        "    open('cleaned', 'w').close()\n"
    )
    done = run(tmp_path, "evaluate", "project.py:b", number=number)
    assert_stopped(done, number)
    assert (tmp_path / "cleaned").exists()
    (tmp_path / "cleaned").unlink()
    (tmp_path / "project.py").write_text("import json.tool\nb = 1\n")  # but what that file imports is
    assert_stopped(run(tmp_path, "evaluate", "project.py:b", number=number, at="json.tool"), number)


@pytest.fixture
def stored(tmp_path):
    import torch

    objective = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(2)})
    line = ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=0))
    ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), store=tmp_path / "run.zarr", check=False)
    return tmp_path


WHILE_WRITING = """
import os, signal
kept = os.fsync
def fsync(number):
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    kept(number)
os.fsync = fsync
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_file_is_written_leaves_nothing_of_it(number, stored):
    (stored / "a.csv").write_text("before")
    done = run(stored, "export", "run.zarr", "-o", "a.csv", "--overwrite", number=number, site=WHILE_WRITING)
    assert_stopped(done, number)
    assert (stored / "a.csv").read_text() == "before"
    assert sorted(os.listdir(stored)) == ["a.csv", "run.zarr", "site"]


WHILE_REMOVING = """
import os, shutil, signal
kept, sent = shutil.rmtree, []
def rmtree(path, *more, **options):
    if not sent:
        sent.append(path)
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    kept(path, *more, **options)
shutil.rmtree = rmtree
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_what_was_written_beside_it_is_removed(number, stored):
    done = run(stored, "export", "run.zarr", "-o", "a.csv", number=number, site=WHILE_REMOVING)
    assert_stopped(done, number)
    assert sorted(os.listdir(stored)) == ["a.csv", "run.zarr", "site"]


WHERE_NOTHING_CAN_BE_RAISED = """
import builtins, os, signal
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        [None for _ in range(10)]
kept = builtins.print
builtins.print = lambda *values, **options: (bool(Dropped()), kept(*values, **options))
"""
AT_THE_END = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), int(os.environ["SIGNAL"])))
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_where_python_would_print_and_drop_it(number, tmp_path):
    assert_stopped(run(tmp_path, "info", "run.zarr", number=number, site=WHERE_NOTHING_CAN_BE_RAISED), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_command_has_said_all(number, stored):
    done = run(stored, "info", "run.zarr", number=number, site=AT_THE_END)
    assert done.returncode == SIGNALS[number] and done.stderr == "" and "loss" in done.stdout


def test_ignored_signals_stay_ignored(stored):
    """Under nohup, or in the background of a shell without job control."""
    nohup = (
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    )
    done = run(stored, "info", "run.zarr", at="typer", command=(*nohup, *COMMAND))
    assert done.returncode == 0 and done.stderr == "" and "loss" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
@pytest.mark.parametrize("arguments", [["info", "run.zarr"], ["info", "run.zarr", "--json"], ["--help"]])
def test_a_full_disk_behind_stdout_is_said(arguments, stored):
    with open("/dev/full", "wb") as file:
        command = [*COMMAND, *arguments]
        done = subprocess.run(command, cwd=stored, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "StoreError: What came out could not be written: No space left on device. Make room and try again, or choose "
        "another folder.\n"
    )
    with open("/dev/full", "wb") as file:  # nor does it matter if that cannot be said either
        assert subprocess.run(command, cwd=stored, stdout=file, stderr=file, check=False).returncode == 1
