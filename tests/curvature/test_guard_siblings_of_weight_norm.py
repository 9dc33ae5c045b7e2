"""Layers whose second derivatives torch may get wrong: held against a matrix of differences, or refused.

The matrix is made of central differences of gradients in plain torch and float64, so that no second derivative of
torch's own goes into it.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

import lossnav as ln
from lossnav import errors

STEP = 1e-5


def differences(model, loss, x, y):
    """The Hessian by all parameters, shape (d, d), in float64."""
    model = copy.deepcopy(model).double().eval()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in start.values()]

    def gradient(flat):
        parts = {n: t.view(p.shape) for (n, p), t in zip(start.items(), torch.split(flat, sizes), strict=True)}
        parts = {name: t.detach().requires_grad_() for name, t in parts.items()}
        value = loss(functional_call(model, parts, (x.double(),)), y.double())
        found = torch.autograd.grad(value, list(parts.values()), allow_unused=True, materialize_grads=True)
        return torch.cat([t.reshape(-1) for t in found])

    flat = torch.cat([p.reshape(-1) for p in start.values()])
    rows = [(gradient(flat + STEP * e) - gradient(flat - STEP * e)) / (2 * STEP) for e in torch.eye(len(flat)).double()]
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2


class Orthogonal(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.first = parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map=how)
        self.second = nn.Linear(3, 2)
        if how == "householder":  # it cuts the diagonal, of -1 and 1, to integers: the point lies on the edge of a step
            given = self.first.parametrizations.weight.original
            with torch.no_grad():
                given.diagonal().mul_(1.3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x[:, 0])))


class Spectral(nn.Module):
    def __init__(self, old):
        super().__init__()
        norm = nn.utils.spectral_norm if old else parametrizations.spectral_norm
        self.first, self.second = norm(nn.Linear(4, 3)), nn.Linear(3, 2)
        with torch.no_grad():
            self.first(torch.randn(2, 4))  # a step of its power iteration

    def forward(self, x):
        return self.second(torch.tanh(self.first(x[:, 0])))


class Distances(nn.Module):
    """Distances to centres; `how` takes them."""

    def __init__(self, how):
        super().__init__()
        self.centres, self.how, self.out = nn.Parameter(torch.randn(3, 4)), how, nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.how(x[:, 0], self.centres))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells, self.out = kind(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.into, self.out, self.causal = nn.Linear(4, 6), nn.Linear(2, 2), causal

    def forward(self, x):
        q, k, v = self.into(x).split(2, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).mean(1))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Normed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.norm, self.out = nn.Linear(4, 6), layer, nn.Linear(6, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.first(x[:, 0]))))


NETWORKS = {
    "orthogonal, matrix_exp": lambda: Orthogonal("matrix_exp"),
    "orthogonal, cayley": lambda: Orthogonal("cayley"),
    "orthogonal, householder": lambda: Orthogonal("householder"),
    "spectral_norm in eval": lambda: Spectral(False),
    "the old spectral_norm": lambda: Spectral(True),
    "a norm of differences": lambda: Distances(lambda x, c: (x[:, None] - c).norm(dim=-1)),
    "cosine similarity": lambda: Distances(lambda x, c: nn.functional.cosine_similarity(x[:, None], c, dim=-1)),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": lambda: Attention(False),
    "causal attention": lambda: Attention(True),
    "attention of heads": Heads,
    "layer norm": lambda: Normed(nn.LayerNorm(6)),
    "group norm": lambda: Normed(nn.GroupNorm(2, 6)),
    "RMS norm": lambda: Normed(nn.RMSNorm(6)),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_ends_and_trace_are_those_of_differences(make):
    torch.manual_seed(0)
    model, x, y = make().eval(), torch.randn(12, 5, 4), torch.randn(12, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matrix = differences(model, nn.functional.mse_loss, x, y)
    truth = torch.linalg.eigvalsh(matrix).numpy()
    objective = ln.Objective(model, "mse", (x, y), batch_size=5)
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), which="both", limit=300)
    slack = 1e-6 * np.abs(truth).max()  # of the differences
    assert (np.abs(pairs.values - truth[[0, -1]]) <= pairs.errors + slack).all()
    trace = ln.curvature.trace(ln.curvature.Hessian(objective), products=len(matrix) if len(matrix) > 15 else 15)
    assert trace.probes == 0
    assert trace.value == pytest.approx(float(matrix.trace()), abs=trace.error + len(matrix) * slack)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("p", [1.5, 2.0])
def test_cdist_is_refused_because_torch_has_no_second_derivative_of_it(p):
    torch.manual_seed(0)
    model, x, y = Distances(lambda x, c: torch.cdist(x, c, p=p)).eval(), torch.randn(12, 5, 4), torch.randn(12, 2)
    with pytest.raises(errors.ObjectiveError, match="cannot be differentiated twice"):
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(ln.Objective(model, "mse", (x, y))))


def test_at_distance_zero_no_eigenvalue_looks_sure():
    """There is no Hessian there: torch gives NaN, which is said."""
    torch.manual_seed(0)
    model = Distances(lambda x, c: (x[:, None] - c).norm(dim=-1)).eval()
    x, y = torch.randn(12, 5, 4), torch.randn(12, 2)
    with torch.no_grad():
        model.centres[0] = x[3, 0]
    with pytest.warns(errors.LossnavWarning, match="not finite"):
        pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(ln.Objective(model, "mse", (x, y))))
    assert np.isnan(pairs.values).all()
    assert not np.isfinite(pairs.errors).any()
