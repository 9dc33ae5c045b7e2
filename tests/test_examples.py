"""The gallery and the README are the front door: they are run."""

import re
import runpy
import subprocess
import sys

import pytest
import torch
from torch import nn

import lossnav as ln
from conftest import ROOT


def run(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_first_surface(tmp_path):
    said = run("first_surface.py", "9", cwd=tmp_path)
    assert "'lowest'" in said
    assert ln.open(tmp_path / "first_surface.zarr").sizes == {"alpha": 9, "beta": 9}
    assert (tmp_path / "first_surface.png").stat().st_size > 10_000
    assert (tmp_path / "first_surface.html").stat().st_size > 3_000_000


@pytest.mark.slow
def test_compare(tmp_path):
    said = run("compare.py", "5", cwd=tmp_path)
    assert re.search(r"after 3 passes: loss 0\.\d+, accuracy 0\.\d+\nafter 30 passes: ", said)
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    assert "after 30 passes" in (tmp_path / "compare.html").read_text()


@pytest.mark.slow
def test_export(tmp_path):
    run("export.py", "5", cwd=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"surface.{suffix}" for suffix in ("csv", "json", "vti", "vtp", "glb", "obj", "gif")}


@pytest.mark.slow
def test_trajectory(tmp_path):
    said = run("trajectory.py", "7", cwd=tmp_path)
    explained, chance = (float(word) for word in re.search(r"1 +([\d.]+)% +([\d.]+)%", said).groups())
    assert 50 < explained < 100
    assert 60 < chance < 95
    path = ln.open_trajectory(tmp_path / "trajectory.zarr")
    assert path.sizes == {"snapshot": 141}
    assert path["loss"][0] > 2 > 1 > path["loss"][-1]
    for name in ("contour.png", "surface.png", "surface.html"):
        assert (tmp_path / f"trajectory-{name}").stat().st_size > 10_000


@pytest.mark.slow
def test_notebook(tmp_path):
    said = run("notebook.py", "--digits", cwd=tmp_path)
    accuracy = float(re.search(r"accuracy (0\.\d+)", said).group(1))
    assert accuracy > 0.85
    assert ln.open(tmp_path / "line.zarr").sizes == {"alpha": 41}
    for name in ("bilinear", "plane"):
        surface = ln.open(tmp_path / f"{name}.zarr")
        assert surface.sizes == {"alpha": 21, "beta": 21}
        assert surface["accuracy"].sel(alpha=0, beta=0) == pytest.approx(accuracy, abs=5e-4)
        assert (tmp_path / f"{name}.html").exists()


def jobs():
    """What plain torch gives at the weights that each example ends with, by its own variables."""
    return {
        "pinn": lambda e: nn.functional.mse_loss(*e["bends"](e["model"], e["x"])),
        "gnn": lambda e: e["loss"](e["model"](e["features"], e["links"]), e["known"]),
        "ctc": lambda e: e["read"](e["model"], e["batch"])[0],
        "segmentation": lambda e: e["loss"](e["model"](e["images"]), e["masks"]),
        "causal_lm": lambda e: e["model"](**e["data"]).loss,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", jobs())
def test_a_job_that_is_no_classifier(name, tmp_path, monkeypatch, capsys):
    """Run in this process: a warning of ours would be an error, and so a workaround that is missing."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        here = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    objective, wanted = here["objective"], float(jobs()[name](here).detach())
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(wanted, rel=2e-6)
    said = capsys.readouterr().out
    assert "What this can and cannot say" in said or f"{wanted:.4f}"[:5] in said
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 30


def test_every_example_is_tested():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    pictures = {"compare", "export", "first_surface", "lora", "notebook", "trajectory"}
    assert names == {f"{name}.py" for name in pictures | set(jobs())}


def test_the_readmes_script_runs(tmp_path, monkeypatch):
    """The README's Python block, on a small network and a small grid in place of my_project's."""
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    module = type(sys)("my_project")
    torch.manual_seed(0)
    module.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    module.test_data = torch.utils.data.TensorDataset(torch.randn(50, 4), torch.randint(0, 3, (50,)))
    monkeypatch.setitem(sys.modules, "my_project", module)
    monkeypatch.chdir(tmp_path)
    import plotly.graph_objects as go

    shown = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    exec(compile(script.replace("51", "5"), "README.md", "exec"), {})
    assert len(shown) == 1
    assert ln.open("run.zarr").sizes == {"alpha": 5, "beta": 5}


@pytest.mark.slow
def test_the_tutorials_script_runs(tmp_path, monkeypatch):
    script = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "first-surface.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    import plotly.graph_objects as go

    shown = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    names: dict[str, object] = {}
    exec(compile(script[0].replace("25))", "5))").replace("passes=20", "passes=2"), "first-surface.md", "exec"), names)
    exec(compile(script[1], "first-surface.md", "exec"), names)
    assert len(shown) == 1
    assert (tmp_path / "contour.pdf").exists()
    assert ln.open("run.zarr").lossnav.complete


def test_the_readme_holds_the_two_commands():
    commands = re.findall(r"```bash\n(python -m pip install .*?)```", (ROOT / "README.md").read_text(), re.S)
    assert [command.strip() for command in commands] == [
        "python -m pip install . && lossnav demo",
        'python -m pip install -e ".[dev]" && python -m pytest -n 2 --dist worksteal',
    ]


def test_every_link_of_the_documents_leads_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("design/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
def test_lora(tmp_path):
    pytest.importorskip("peft")
    assert len((ROOT / "examples" / "lora.py").read_text().splitlines()) <= 30
    said = run("lora.py", cwd=tmp_path)
    surface = ln.open(tmp_path / "lora.zarr")
    objective = surface.attrs["objective"]
    names = {name for recipe in surface.attrs["chart"]["directions"] for name in recipe["norms"]}
    assert names and all("lora_" in name for name in names)
    assert objective["moves"]["params"] == "trainable"
    assert objective["parameters"] == 2 * 4 * (32 + 96)  # of two layers, rank 4, from 32 to 3 x 32
    assert objective["parameters_held"] > 20_000
    assert f"{objective['parameters_held']:,} parameters of the model" in said
    assert "which are not trained (requires_grad is False); 1,024 may move" in said
    assert 0 < float(surface["loss"].min()) < float(surface["loss"].max())
