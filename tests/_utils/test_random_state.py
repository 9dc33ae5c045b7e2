import random

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav._utils import random_state


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [None, 0, 2**40])
def test_the_world_is_as_before_also_after_an_error(seed):
    rng_seed = 5
    random.seed(rng_seed), np.random.seed(rng_seed), torch.manual_seed(rng_seed)
    expected = draws()
    random.seed(rng_seed), np.random.seed(rng_seed), torch.manual_seed(rng_seed)

    def fails():
        with random_state.preserved(seed):
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert draws() == expected


def test_a_seed_makes_the_same_draws():
    with random_state.preserved(3):
        first = draws()
    with random_state.preserved(3):
        assert draws() == first
    with random_state.preserved(4):
        assert draws() != first


def _streamed():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.randint(0, 2, (12,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    return ln.Objective(torch.nn.Linear(3, 2), "cross_entropy", loader, data_budget=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.evaluate(o.params),
        lambda o: o.subset(6),
        lambda o: ln.curvature.gradient(o),
        lambda o: ln.curvature.trace(ln.curvature.Hessian(o)),
        lambda o: ln.spectrum(o),
        lambda o: ln.evaluate(o, ln.Line(o.params, o.params), ln.Grid(alpha=(0, 1, 3)), progress=False),
        lambda o: o.fingerprint,
    ],
)
def test_a_loader_that_draws_to_begin_with_leaves_the_world_alone(call):
    objective = _streamed()
    expected = torch.get_rng_state()
    call(objective)
    assert torch.equal(torch.get_rng_state(), expected)
