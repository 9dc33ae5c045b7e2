"""Every case of the table, at its centre and three displaced points, against plain torch."""

from __future__ import annotations

import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from real_case import ALPHAS, TABLE, Case, displaced, in_double, missing, rounding, seeded, state_of, to_double
from real_case import changed as with_tensors
from real_table import MODULES  # which fill the table

import lossnav as ln
from lossnav.acceleration import planner as planning

SEED = 3
assert MODULES

AWAITED: dict[str, str] = {}  # faults that are known and being mended: these fail when they pass

pytestmark = pytest.mark.slow


SURROGATES = ("spiking", "quantised in training")


def build(name: str) -> Case:
    entry = TABLE[name]
    if absent := missing(entry):
        pytest.skip(f"{absent} is not installed")
    with seeded(SEED), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = entry.build(SEED)
    with torch.no_grad():  # a gradient of the user's, to be found as it was
        for i, parameter in enumerate(case.model.parameters()):
            if i % 2 == 0 and parameter.is_floating_point() and parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 0.5)
    return case


@pytest.fixture
def planned(monkeypatch):
    """Find a plan for four points of a tiny model too."""
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)


def row(name):
    marks = [pytest.mark.xfail(reason=AWAITED[name], strict=True)] if name in AWAITED else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [row(name) for name in TABLE])
@pytest.mark.filterwarnings(  # the last counts most; contrastive losses are among them
    "ignore:.*:UserWarning", "error::lossnav.errors.LossnavWarning", "ignore::lossnav.errors.BatchDependenceWarning"
)
def test_a_model_is_what_plain_torch_says(name, planned):
    case = build(name)
    torch.manual_seed(11)
    np.random.seed(12)
    random.seed(13)
    before = state_of(case)
    if case.warns is None:
        objective = case.make()
    else:
        with pytest.warns(case.warns):
            objective = case.make()
    line = ln.Line(objective.params, ln.directions.random(objective, n=1, exclude=(), seed=5)[0])
    sampler = ln.Points(np.array(ALPHAS)[:, None], dims=("alpha",))
    surfaces = {"plain": ln.evaluate(objective, line, sampler, engine=ln.Local(plan="plain"), progress=False)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ln.errors.PlanFellBackWarning)
        surfaces["auto"] = ln.evaluate(objective, line, sampler, engine=ln.Local(), progress=False)
    fell_back = [str(warning.message) for warning in caught if warning.category is ln.errors.PlanFellBackWarning]
    if case.tuned:
        surfaces["tuned"] = ln.evaluate(objective, line, sampler, engine=ln.Local(plan="tuned"), progress=False)
    events = surfaces["auto"].attrs["engine"].get("plan_events", [])
    assert "plain: the run is shorter than the search for a plan" not in events
    # a surrogate's gradient is not that of the loss, and says so
    with pytest.warns(ln.errors.LossnavWarning, match="gradient of") if name in SURROGATES else nullcontext():
        gradient = ln.curvature.gradient(objective) if case.differentiable else None
    after = state_of(case)
    for part, value in before.items():
        assert after[part] == value, f"{part} of {name} was changed: {_first_change(value, after[part])}"

    doubled = with_tensors(case.data, to_double)
    truth, moved, worst = 0.0, False, 0.0
    for i, alpha in enumerate(ALPHAS):
        model = displaced(case.model, line([alpha]))
        with torch.no_grad() if not case.differentiable else torch.enable_grad(), seeded(objective.seed):
            double = case.plain(in_double(model), doubled).item()
        with torch.no_grad() if not case.differentiable else torch.enable_grad(), seeded(objective.seed):
            single = case.plain(model, case.data).item()
        worst = max(worst, abs(single - double) / max(abs(double), 1e-12))
        moved = moved or (i > 0 and abs(double - truth) > 1e-3 * abs(truth))
        truth = double if i == 0 else truth
        allowed = rounding(single, double) * max(abs(double), 1e-12)
        for way, surface in surfaces.items():
            at = int(np.argmin(np.abs(surface["alpha"].values - alpha)))
            loss = float(surface["loss"].values.reshape(-1)[at])
            assert loss == pytest.approx(single, rel=0, abs=allowed), f"loss of {name} at {alpha} by {way}"
            if case.accuracy is not None:
                with seeded(objective.seed), torch.no_grad():
                    wanted = case.accuracy(model, case.data)
                found = float(surface["accuracy"].values.reshape(-1)[at])
                assert found == pytest.approx(wanted, abs=1e-9), f"accuracy of {name} at {alpha} by {way}"
    assert moved, f"the surface of {name} is flat: nothing was held against anything"
    if fell_back:  # is right only where float32 itself is not exact enough to tell
        assert worst > planning.TOLERANCES["native"] / 4, fell_back
    if gradient is not None:
        _hold_gradient(case, objective, gradient, doubled)


def _hold_gradient(case, objective, gradient, doubled):
    """Against autograd through the hand-written loop, relative to the length of the gradient."""
    found = {}
    for kind, model, data in (
        ("single", displaced(case.model, {}), case.data),
        ("double", in_double(case.model), doubled),
    ):
        for parameter in model.parameters():
            parameter.detach_().requires_grad_(parameter.is_floating_point())  # a scripted copy hangs on its original
            parameter.grad = None
        with seeded(objective.seed):
            case.plain(model, data).backward()
        parameters = dict(model.named_parameters())
        found[kind] = [
            torch.zeros_like(parameters[name]) if parameters[name].grad is None else parameters[name].grad.to_dense()
            for name in objective.params
        ]
    length = sum(float(part.double().square().sum()) for part in found["double"]) ** 0.5
    assert length > 0

    def distance(others):
        parts = zip(found["double"], others, strict=True)
        return sum(float((a.double() - b.double()).square().sum()) for a, b in parts) ** 0.5 / length

    allowed = max(2e-6, 4 * distance(found["single"]))
    assert distance([gradient[name] for name in objective.params]) <= allowed


def _first_change(before, after):
    if isinstance(before, dict):
        return next((key for key in before if before[key] != after.get(key)), "keys")
    if isinstance(before, list):
        return next((a for a, b in zip(before, after, strict=False) if a != b), "length")
    return before
