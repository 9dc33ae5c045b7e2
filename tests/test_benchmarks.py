"""Benchmarks run, and say what they measured as one JSON object. How fast is for them to say, not for a test."""

import json
import subprocess
import sys

import pytest

from conftest import ROOT

SHARED = {"__init__", "common", "curvature_peers", "peers", "workloads"}  # what the benchmarks are made of
SHARED |= {"honesty_report", "honesty_report_cases", "honesty_report_planted", "honesty_report_truth"}
SHARED |= {"honesty_intervals", "honesty_adaptive", "honesty_spectra", "honesty_barriers"}
SHARED |= {"symmetry_networks", "symmetry_hugging_face"}
SOME = {
    "adaptive": "digits,line",
    "engine": "cnn,mlp",
    "store": "cnn",
}  # parts enough
FILES = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
NAMES = sorted(name for name in FILES if name not in SHARED and not name.startswith("chaos_"))  # parts of chaos


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_benchmark_runs_quickly(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"]
    command += ["--only", SOME[name]] if name in SOME else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["machine"]["torch"]
    if "largest relative difference" in result:
        assert result["largest relative difference"] < 1e-5


def test_parts_are_there_before_the_first_begins(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.common import parts_named

    with pytest.raises(SystemExit, match="'threds'"):
        parts_named("stores,threds", ("stores", "threads"), "chaos")
    monkeypatch.setitem(sys.modules, "benchmarks.chaos_messages", None)  # as where what it needs is not installed
    with pytest.raises(SystemExit, match="pip install"):
        parts_named("stores,messages", ("stores", "messages"), "chaos")
