import numpy as np
import pytest

import lossnav as ln
from lossnav.engines import Outcome

POINTS = np.array([[0.0], [1.0], [2.0]])


def test_points_in_order_and_an_error_is_an_outcome():
    def f(point):
        if point[0] == 1:
            raise ValueError("one")
        return {"loss": float(point[0])}

    assert list(ln.Local().run(f, POINTS)) == [
        Outcome(0, {"loss": 0.0}),
        Outcome(1, {}, "ValueError: one"),
        Outcome(2, {"loss": 2.0}),
    ]


def test_ctrl_c_is_no_outcome():
    def f(point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(ln.Local().run(f, POINTS))


def test_a_function_that_knows_no_faster_way_is_run_as_it_is():
    def f(point):
        return {"loss": 1.0}

    assert ln.Local(plan="auto").prepare(f, POINTS, 3) is f
    assert ln.Local(plan="auto").describe() == {
        "kind": "Local",
        "asked": "auto",
        "plan": "plain",
        "precision": "native",
    }
