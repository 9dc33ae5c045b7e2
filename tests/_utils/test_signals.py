"""A stop says which signal it stands for, wherever it is noticed."""

import ast
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav._utils.signals import signal_of

SOURCES = Path(ln.__file__).parent


def test_signal_of() -> None:
    terminated = KeyboardInterrupt()
    terminated.signal = signal.SIGTERM  # type: ignore[attr-defined]
    assert signal_of(terminated) == 15
    assert signal_of(KeyboardInterrupt()) == 2
    assert signal_of(ln.errors.Interrupted("Stopped.", signal=15)) == 15


def test_every_interrupt_that_is_raised_names_its_signal() -> None:
    silent = []
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Interrupted"
            if made and len(node.args) < 3 and "signal" not in {word.arg for word in node.keywords}:
                silent.append(f"{file.relative_to(SOURCES)}:{node.lineno}")
    assert not silent


LEFT = [-1]  # calls of a model until it is stopped


class Ends(nn.Module):
    """A model that is stopped by SIGTERM at the call that LEFT names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        LEFT[0] -= 1
        if LEFT[0] == 0:
            error = KeyboardInterrupt()
            error.signal = signal.SIGTERM  # type: ignore[attr-defined]
            raise error
        return self.linear(x)


def _terminated(*where: Any) -> Any:
    error = KeyboardInterrupt()
    error.signal = signal.SIGTERM  # type: ignore[attr-defined]
    raise error


def _objective() -> ln.Objective:
    torch.manual_seed(3)
    data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    return ln.Objective(nn.Linear(3, 2), nn.functional.cross_entropy, data)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_ensemble_that_is_terminated_while_a_chart_is_made(call: int) -> None:
    objective, calls = _objective(), iter(range(1, 100))

    def chart(seed: int) -> ln.Line:
        if next(calls) == call:
            _terminated()
        return ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))

    with pytest.raises(KeyboardInterrupt) as stopped:
        ln.ensemble(objective, chart, ln.Grid(alpha=(-1, 1, 3)), seeds=range(3))
    assert signal_of(stopped.value) == 15


def test_directions_that_are_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossnav.directions import drawn

    objective = _objective()
    monkeypatch.setattr(drawn.Draws, "finish", _terminated)
    with pytest.raises(ln.errors.Interrupted) as stopped:
        ln.directions.random(objective, n=2, seed=0)
    assert stopped.value.signal == 15
    assert len(stopped.value.directions) == 2


def test_a_run_that_is_terminated_at_a_point() -> None:
    torch.manual_seed(4)
    objective = ln.Objective(Ends(), nn.functional.cross_entropy, [(torch.randn(8, 3), torch.randint(2, (8,)))])
    line = ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=0))
    LEFT[0] = 4
    with pytest.raises(ln.errors.Interrupted) as stopped:
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 21)), engine=ln.Local(plan="plain"))
    assert stopped.value.signal == 15
