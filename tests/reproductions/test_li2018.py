"""The reproduction from end to end on a few images, and what it plans and says."""

import io
import json
import math
import re
import signal

import numpy as np
import pytest
import torch

import lossnav as ln
from conftest import shared_data
from lossnav import errors
from lossnav.reproductions.li2018 import plan
from lossnav.reproductions.li2018 import run as li2018
from lossnav.reproductions.li2018.run import reproduce
from lossnav.surface.ruggedness import ruggedness

TINY = {"depth": 8, "passes": 2, "samples": 48, "side": 5, "images": 40, "progress": False}
NAMES = ["resnet8", "resnet8-noshort"]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Forty-eight and twenty images whose label shows in their colour, in the layout of Hugging Face."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    folder, drawn = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for split, n in (("train", 48), ("test", 20)):
        rows, labels = [], drawn.integers(0, 10, n).tolist()
        for label in labels:
            buffer = io.BytesIO()
            pixels = np.uint8(20 * label + drawn.integers(0, 60, (32, 32, 3)))
            image.fromarray(pixels).save(buffer, "JPEG")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pa.table({"img": rows, "label": labels}), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def made(cifar, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("made") / "run", []
    return reproduce(folder, data_root=cifar, say=said.append, **TINY), said


@pytest.mark.slow
def test_the_plan_is_said_before_it_is_done(made):
    _, said = made
    (plan,) = (i for i, line in enumerate(said) if line.startswith("plan: "))
    assert "2 passes over 48 images" in said[plan]
    assert "2 planes of 5x5 and 4 of 5x5 points on 40 images" in said[plan]
    assert plan < next(i for i, line in enumerate(said) if line.startswith("training"))


@pytest.mark.slow
def test_networks_and_planes_are_what_was_asked(made):
    result, _ = made
    assert list(result.surfaces) == NAMES
    fingerprints = set()
    for name, planes in result.surfaces.items():
        assert [plane.sizes for plane in planes] == 3 * [{"alpha": 5, "beta": 5}]
        stored = [ln.open(result.folder / f"{name}{end}.zarr") for end in ("", "-seed1", "-seed2")]
        for plane, kept, seed in zip(planes, stored, range(3), strict=True):
            assert plane["loss"].equals(kept["loss"])
            recipes = plane.attrs["chart"]["directions"]
            assert [(r["seed"], r["normalize"], r["exclude"]) for r in recipes] == 2 * [
                (seed, "filter", ["bias", "norm"])
            ]
            assert (plane.attrs["objective"]["samples"], plane.attrs["objective"]["population"]) == (40, 48)
            assert plane.attrs["objective"]["bn"] == "frozen"
            fingerprints.add(plane.attrs["objective"]["fingerprint"])
        model = ln.checkpoints.load_into(ln.zoo.recipe(name).model(), result.folder / f"{name}.safetensors")
        assert torch.equal(
            ln.checkpoints.load(result.folder / f"{name}.safetensors")["conv1.weight"], model.conv1.weight
        )
        assert not (result.folder / f"{name}.training.safetensors").exists()
    assert len(fingerprints) == 2


@pytest.mark.slow
def test_the_report_says_what_was_measured(made, cifar):
    result, _ = made
    text, record = result.report.read_text(), json.loads((result.folder / "run.json").read_text())
    assert record == result.record
    assert "7.37% | 8.18%" in text
    assert "5.89% | 13.31%" in text
    assert "5.79% | 16.44%" in text
    for planes in result.surfaces.values():
        assert f"{planes[0].lossnav.center['loss']:.4g} ± " in text
    found = [ruggedness(planes[0]) for planes in result.surfaces.values()]
    row = next(line for line in text.splitlines() if line.startswith("| falls outwards, of 5x5 points"))
    assert row.split("|")[2:4] == [f" {each.descending_fraction:.1%} " for each in found]
    row = next(line for line in text.splitlines() if line.startswith("| falls outwards, 3 planes"))
    for cell, planes in zip(row.split("|")[2:4], result.surfaces.values(), strict=True):
        assert cell.strip() == ", ".join(f"{ruggedness(plane).descending_fraction:.1%}" for plane in planes)
    missing = text.split("## What was not reproduced")[1]
    for words in ("2 passes over 48 images", "Depth: 8 layers", "JPEG", "option A", "5x5 points on 40", "Seeds"):
        assert words in missing
    assert "chaotic without" not in text.split("## What it says")[0]
    for picture in re.findall(r"\]\((\S+\.png)\)", text):
        assert (result.folder / picture).stat().st_size > 5000
    page = result.page.read_text()
    assert "ResNet-8-noshort" in page
    assert "What was not reproduced" in page
    for name, known in record["networks"].items():
        assert known["test_images"] == 20
        each = ln.zoo.recipe(name)
        model = ln.checkpoints.load_into(each.model(), result.folder / f"{name}.safetensors")
        assert known["test_error"] == 1 - ln.zoo.accuracy(model, each.load_data(cifar))


@pytest.mark.slow
def test_the_same_call_does_nothing_again(made, cifar):
    result, _ = made
    before = {path: path.stat().st_mtime_ns for path in result.folder.glob("*.safetensors")}
    said = []
    again = reproduce(result.folder, data_root=cifar, say=said.append, **TINY)
    assert {path: path.stat().st_mtime_ns for path in result.folder.glob("*.safetensors")} == before
    assert not [line for line in said if line.startswith(("training", "plan"))]
    for name in NAMES:
        for a, b in zip(result.surfaces[name], again.surfaces[name], strict=True):
            assert a["loss"].equals(b["loss"])
            assert a.attrs["seconds"] == b.attrs["seconds"]
    assert again.record["seconds"] > result.record["seconds"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(made, cifar, tmp_path, monkeypatch):
    """Stopped in the training of the second network, then on its plane."""
    result, _ = made
    train_state, evaluations = [], []
    original, evaluated = li2018.Recipe.train, li2018.evaluate

    def training(self, model, data, **options):
        if self.name == NAMES[1] and options.get("keep") is not None and not train_state:
            train_state.append(1)
            model.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
        return original(self, model, data, **options)

    def evaluating(objective, chart, grid, **options):
        evaluations.append(1)
        if len(evaluations) == 5:
            raise errors.Interrupted("Stopped", signal=15)
        return evaluated(objective, chart, grid, **options)

    monkeypatch.setattr(li2018.Recipe, "train", training)
    with pytest.raises(errors.Interrupted, match="same call goes on") as stopped:
        reproduce(tmp_path / "run", data_root=cifar, **TINY)
    assert stopped.value.signal == 2
    assert (tmp_path / "run" / "resnet8.safetensors").exists()
    assert not (tmp_path / "run" / "resnet8-noshort.safetensors").exists()
    monkeypatch.setattr(li2018, "evaluate", evaluating)
    with pytest.raises(errors.Interrupted) as stopped:
        reproduce(tmp_path / "run", data_root=cifar, **TINY)
    assert stopped.value.signal == 15
    again = reproduce(tmp_path / "run", data_root=cifar, **TINY)
    for name in NAMES:
        for a, b in zip(result.surfaces[name], again.surfaces[name], strict=True):
            assert a["loss"].equals(b["loss"])


@pytest.mark.slow
def test_other_settings_and_other_folders_are_refused(made, cifar, tmp_path):
    result, _ = made
    with pytest.raises(errors.OutputExistsError, match="passes=2 where 3 is asked"):
        reproduce(result.folder, data_root=cifar, **(TINY | {"passes": 3}))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(errors.OutputExistsError, match="not such a run"):
        reproduce(tmp_path, data_root=cifar, overwrite=True, **TINY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"side": 12}, "to contain a grid of 11"),
        ({"side": 2}, "side must be at least 3, got 2"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"minutes": 0}, "minutes must be positive"),
        ({"scale": "large"}, "'small' or 'full'"),
        ({"minutes": 0.1}, "Use . or more"),
    ],
)
def test_bad_options(cifar, tmp_path, options, words):
    with pytest.raises(errors.OptionError, match=words):
        reproduce(tmp_path / "run", data_root=cifar, **({**TINY, "passes": None} | options))


def test_the_full_scale_wants_a_gpu(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.DeviceError, match="needs a GPU.*--force"):
        reproduce(tmp_path / "run", scale="full", data_root=cifar)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(li2018._Reproduction, "all", lambda run, data_root: run)
    forced = reproduce(tmp_path / "run", scale="full", force=True)
    assert forced.device == torch.device("cpu")
    assert (forced.size.depth, forced.size.passes, forced.size.side, forced.size.minutes) == (56, 300, 51, None)


@pytest.mark.parametrize(
    ("batches", "passes", "samples", "expected"),
    [
        (860, None, None, (10, 86 * 128)),  # ten passes over what there is time for
        (391 * 20 + 5, None, None, (20, 50_000)),  # all images, and more passes
        (math.inf, 300, 50_000, (300, 50_000)),
        (5, None, None, (5, 128)),  # no less than one batch
        (100, 2, None, (2, 50 * 128)),
        (100, None, 1000, (12, 1000)),
    ],
)
def test_as_much_training_as_fits(batches, passes, samples, expected):
    size = plan.Scale(20, 20.0, "cpu", passes=passes, samples=samples)
    n, images = plan.training_that_fits(size, batches, 50_000)
    assert (n, images) == expected
    if passes is None:
        assert n * plan.batches_of(images) <= batches


def test_planes_as_fine_as_fits():
    """The finest grid on 500 images, then as many images as the time allows; never more time than there is."""
    size, before = plan.Scale(20, 20.0, "cpu"), 0
    assert plan.points(51) == 2 * (51**2 + 2 * 11**2)
    for seconds in (60, 100, 200, 400, 1000, 4000, 40_000):
        side, images = plan.planes_that_fit(size, seconds, 4e-4, 10_000)
        assert plan.points(side) * images * 4e-4 <= seconds
        assert (side - 1) % 10 == 0
        assert side * 1e6 + images > before
        before = side * 1e6 + images
    assert plan.planes_that_fit(size, 40_000, 4e-4, 10_000) == (51, 10_000)
    assert plan.planes_that_fit(size, math.inf, 4e-4, 10_000) == (51, 10_000)
    assert plan.planes_that_fit(size, -5.0, 4e-4, 10_000) == (11, 100)  # the least there is
    asked = plan.Scale(20, 20.0, "cpu", side=5, images=40)
    assert plan.planes_that_fit(asked, 1.0, 4e-4, 10_000) == (5, 40)


@pytest.mark.slow
def test_small_keeps_to_its_time_on_the_real_images(tmp_path):
    """ResNet-8 in three minutes: the plan is kept to, and the images are those of CIFAR-10."""
    root, said = shared_data("cifar10"), []
    result = reproduce(tmp_path / "run", data_root=root, depth=8, minutes=3, progress=False, say=said.append)
    assert result.record["lossy"]
    assert (result.record["side"] - 1) % 10 == 0
    if any("longer than asked" in line for line in said):
        pytest.skip("this machine is too busy to do anything in three minutes, and said so before it began")
    assert result.record["seconds"] < 180
    assert all(known["test_error"] < 0.85 for known in result.record["networks"].values())  # guessing has 0.9
