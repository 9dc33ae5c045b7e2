"""What two runs differ in is named by its innermost entry, and not by what follows from it."""

import pytest
import torch
from torch import nn

import lossnav as ln


def _objective() -> ln.Objective:
    torch.manual_seed(0)
    data = [(torch.randn(20, 4), torch.randint(3, (20,)))]
    return ln.Objective(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), nn.functional.cross_entropy, data)


def _plane(objective: ln.Objective, **options) -> ln.Plane:
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, **options))


GRID = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ({"seed": 1}, ["chart.directions[0].seed: was 0, is 1", "chart.directions[1].seed: was 0, is 1"], ["norm"]),
        ({"seed": 0, "normalize": "layer"}, ["normalize: was 'filter', is 'layer'"], ["cosine"]),
        ({"seed": 0, "exclude": ()}, ["exclude"], ["characters"]),
        ({"seed": 0, "distribution": "uniform"}, ["distribution: was"], ["norm:"]),
    ],
)
def test_a_run_of_another_plan_is_told_what_differs(tmp_path, options, there, not_there):
    objective = _objective()
    ln.evaluate(objective, _plane(objective, seed=0), GRID, store=tmp_path / "run.zarr")
    with pytest.raises(ln.errors.StoreError) as refused:
        ln.evaluate(objective, _plane(objective, **options), GRID, store=tmp_path / "run.zarr")
    said = str(refused.value)
    assert all(words in said for words in there), said
    assert not any(words in said for words in not_there), said


def test_other_weights_are_named_by_their_hash_where_nothing_else_differs(tmp_path):
    objective = _objective()
    plane = _plane(objective, seed=0)
    ln.evaluate(objective, plane, GRID, store=tmp_path / "run.zarr")
    moved = objective.at({name: value + 0.5 for name, value in objective.params.items()})
    with pytest.raises(ln.errors.StoreError, match="fingerprint"):
        ln.evaluate(moved, _plane(moved, seed=0), GRID, store=tmp_path / "run.zarr")
