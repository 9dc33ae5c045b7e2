"""A metric of somebody else's that is registered by name is one as any other: measured, described, in the table."""

from pathlib import Path

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.objective.metrics import register_metric
from lossnav.objective.predictions import METRICS, table

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def registered():
    @register_metric("confidence", "probabilities of the class that is predicted")
    def confidence(outputs, targets):
        return outputs.softmax(1).amax(1)

    @register_metric("certain", "samples whose class is the best by more than 1", of_prediction=True)
    def certain(prediction, n):
        first, second = prediction.scores.topk(2, dim=1).values.T
        return ((first - second > 1) & prediction.counted).double(), prediction.counted.double()

    yield confidence
    del METRICS["confidence"], METRICS["certain"]


def made(metrics):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = 3 * torch.randn(50, 4), torch.randint(0, 3, (50,))
    y[::7] = -100  # which the loss ignores
    return ln.Objective(model, "cross_entropy", (x, y), metrics=metrics, batch_size=16), model(x).detach(), y


def test_it_is_measured_by_its_name(registered):
    objective, outputs, y = made(["accuracy", "confidence", "certain"])
    found = objective.evaluate(objective.params)
    assert found["confidence"] == pytest.approx(float(outputs.softmax(1).amax(1).mean()), rel=1e-6)
    first, second = outputs.topk(2, dim=1).values.T
    assert found["certain"] == pytest.approx(float((first - second > 1)[y != -100].double().mean()))
    hits = (outputs.argmax(1) == y)[y != -100]
    assert found["accuracy"] == pytest.approx(float(hits.double().mean()))


def test_its_words_are_kept_with_a_surface_and_shown(registered, tmp_path):
    objective, _, _ = made({"accuracy": "accuracy", "confidence": "confidence", "sure": "confidence"})
    line = ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=0))
    ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), store=tmp_path / "run.zarr", progress=False)
    surface = ln.open(tmp_path / "run.zarr")
    words = {name: surface[name].attrs["long_name"] for name in ("accuracy", "confidence", "sure")}
    assert words["confidence"] == "confidence (probabilities of the class that is predicted), mean over the data"
    assert words["accuracy"] == "accuracy (fraction of correct predictions), mean over the data"
    assert words["sure"] == "sure, mean over the data"  # another name is another's
    assert surface.attrs["objective"]["metric_words"].keys() == {"accuracy", "confidence"}


def test_a_name_that_is_taken_or_none_is_refused(registered):
    for name in ("accuracy", "confidence"):
        with pytest.raises(errors.OptionError, match=f"metric '{name}' is registered already: .*another name"):
            register_metric(name, "something else")(registered)
    for name in ("loss", "status", "two words", "", 5):
        with pytest.raises(errors.OptionError, match="cannot be called"):
            register_metric(name, "something")(registered)
    with pytest.raises(errors.OptionError, match="metric 'f1' is unknown. Use accuracy, .*certain"):
        made(["f1"])


def test_the_table_of_the_docs_is_that_of_the_registry(registered):
    assert "| `confidence` | probabilities of the class that is predicted |" in table()
    rows = table().splitlines()
    assert "\n".join(row for row in rows if "confidence" not in row and "certain" not in row) in DOCS.read_text()
