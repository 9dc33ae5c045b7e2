"""Many random directions: as orthogonal and as long as few, the first of them the same, and not deaf to Ctrl-C."""

import _thread
import threading

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.directions import counter_based, draw_parts
from lossnav.directions import drawn as drawing
from lossnav.directions.drawn import random
from lossnav.params import to_filters


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(0)
    layers = (nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 8, 3, groups=2), nn.Flatten(), nn.Linear(288, 7))
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    return ln.Objective(nn.Sequential(*layers), "cross_entropy", (x, torch.arange(3)))


def filters(objective, direction):
    """Every filter of every weight, by the plainest reading of Li et al.: norms of the rows."""
    return {
        name: to_filters(direction[name].double(), objective.transposed.get(name))
        for name in objective.params
        if objective.roles[name] == "weight"
    }


@pytest.mark.parametrize("normalize", ["filter", "layer", None])
@pytest.mark.parametrize("lazy", [False, True])
def test_they_are_orthogonal_and_of_the_right_length(objective, normalize, lazy):
    n = 16
    made = [dict(d) for d in random(objective, n, normalize=normalize, lazy=lazy)]
    flat = torch.stack([torch.cat([d[name].double().reshape(-1) for name in objective.params]) for d in made])
    gram = (flat @ flat.T).numpy()
    lengths = np.sqrt(gram.diagonal())
    np.testing.assert_allclose(gram / np.outer(lengths, lengths), np.eye(n), atol=2e-6)
    if normalize == "filter":
        center = filters(objective, objective.params)
        for direction in made:
            for name, rows in filters(objective, direction).items():
                torch.testing.assert_close(rows.norm(dim=1), center[name].norm(dim=1), rtol=1e-5, atol=1e-7)
    elif normalize == "layer":
        for direction in made:
            for name, center in objective.params.items():
                length = float(direction[name].double().norm())
                assert length in (0.0, pytest.approx(float(center.double().norm()), rel=1e-5))


@pytest.mark.parametrize(
    "options", [{}, {"normalize": "layer"}, {"normalize": None}, {"orthogonal": False}, {"lazy": True}]
)
def test_the_first_are_those_of_a_smaller_number(objective, options):
    """The first eight to the bit, whatever n; the others to rounding."""
    few, some, many = (random(objective, n, exclude=("bias",), **options) for n in (8, 12, 17))
    for name in objective.params:
        for a, b, c in zip(few, some, many, strict=False):
            assert torch.equal(a[name], b[name])
            assert torch.equal(a[name], c[name])
        for b, c in zip(some[8:], many[8:], strict=False):
            torch.testing.assert_close(b[name], c[name], rtol=1e-4, atol=1e-6)


def test_as_many_as_there_is_room_for(objective):
    made = random(objective, 18, exclude=("bias", "3.*", "1.*"))  # filters of 2 x 3 x 3 entries
    rows = torch.stack([d["0.weight"].reshape(6, 18) for d in made]).double()
    gram = torch.einsum("ife,jfe->fij", rows, rows)
    lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
    cosines = gram / (lengths[:, :, None] * lengths[:, None, :])
    torch.testing.assert_close(cosines, torch.eye(18, dtype=torch.float64).expand(6, 18, 18), atol=1e-5, rtol=0)
    with pytest.raises(errors.DirectionError, match="Direction 19 of 20 is zero.* too small for 20 orthogonal"):
        random(objective, 20, exclude=("bias", "3.*", "1.*"))


def test_work_grows_with_the_number_where_nothing_is_made_orthogonal(objective, monkeypatch):
    """Counted, not timed: entries that are drawn."""
    counts = {}
    plain = counter_based.Draws._draw
    for n in (20, 200):
        drawn = []

        def counting(self, generator, piece, drawn=drawn):
            made = plain(self, generator, piece)
            drawn.append(made.numel())
            return made

        monkeypatch.setattr(counter_based.Draws, "_draw", counting)
        random(objective, n, orthogonal=False)
        counts[n] = sum(drawn)
    assert counts[200] == 10 * counts[20]


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_keeps_those_that_are_whole(objective, monkeypatch, threads):
    monkeypatch.setattr(drawing, "TOGETHER", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    whole = random(objective, 20, orthogonal=False)
    plain, calls = drawing._stored, []

    def stored(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(drawing, "_stored", stored)
    with pytest.raises(ln.Interrupted, match="8 of 20 directions") as caught:
        random(objective, 20, orthogonal=False)
    assert len(caught.value.directions) == 8
    for kept, truth in zip(caught.value.directions, whole, strict=False):
        assert all(torch.equal(kept[name], truth[name]) for name in truth)


def test_threads_end_at_their_next_piece_after_ctrl_c(monkeypatch):
    """A thread that is under way hears of it: it does not draw the rest of its slice."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(draw_parts, "_PIECE", 16)
    params = {name: torch.ones(4, 4096) for name in "ab"}
    begun, plain = threading.Event(), counter_based.Draws._draw
    pieces = []

    def interrupted(self, generator, piece):
        pieces.append(piece)
        if not begun.is_set():
            begun.set()
            _thread.interrupt_main()
        return plain(self, generator, piece)

    monkeypatch.setattr(counter_based.Draws, "_draw", interrupted)
    options = {"seed": 0, "distribution": "normal", "normalize": "filter", "orthogonal": True, "transposed": {}}
    with pytest.raises(KeyboardInterrupt):
        counter_based.Draws(params, 4, **options)
    assert len(pieces) < 2 * 4 * 4 * 4096 // 16


def test_a_bar_counts_all_that_is_drawn(objective, monkeypatch):
    bars = []

    class Counting(drawing.Progress):
        def __init__(self, *given):
            super().__init__(*given)
            bars.append(self)

    monkeypatch.setattr(drawing, "Progress", Counting)
    for options in (
        {},
        {"orthogonal": False},
        {"normalize": None},
        {"normalize": "weight", "orthogonal": False},
        {"lazy": True},
    ):
        random(objective, 9, **options)
        assert bars[-1].done == bars[-1].total
