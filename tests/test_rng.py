import random

import numpy as np
import pytest
import torch

from lossnav import rng


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [None, 0, 2**40])
def test_the_world_is_as_before_also_after_an_error(seed):
    rng_seed = 5
    random.seed(rng_seed), np.random.seed(rng_seed), torch.manual_seed(rng_seed)
    expected = draws()
    random.seed(rng_seed), np.random.seed(rng_seed), torch.manual_seed(rng_seed)

    def fails():
        with rng.preserved(seed):
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert draws() == expected


def test_a_seed_makes_the_same_draws():
    with rng.preserved(3):
        first = draws()
    with rng.preserved(3):
        assert draws() == first
    with rng.preserved(4):
        assert draws() != first
