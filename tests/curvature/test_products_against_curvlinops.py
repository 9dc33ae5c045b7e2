"""Products and extreme eigenvalues are those that curvlinops, written by others, finds.

It is not among the dependencies, since its metadata asks for torchvision, which replaces torch; see CONTRIBUTING.md.
"""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

import lossnav as ln
from lossnav.curvature import GaussNewton, Hessian

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed (CONTRIBUTING.md says how)")


def notebook():
    recipe = ln.zoo.recipe("notebook-digits")
    data, model = recipe.load_data(), recipe.model(seed=3)
    recipe.train(model, data, passes=1, progress=False)
    x, y = data.train
    return model.eval(), x[:60], y[:60]


def resnet20():
    torch.manual_seed(0)
    model = ln.zoo.recipe("resnet20").model()
    model(torch.randn(16, 3, 32, 32))  # running statistics that are not the initial ones
    return model.eval(), torch.randn(6, 3, 16, 16), torch.arange(6)


@pytest.mark.slow
@pytest.mark.parametrize("make", [notebook, resnet20])
@pytest.mark.parametrize(("ours", "theirs"), [(Hessian, "Hessian"), (GaussNewton, "GGN")])
def test_products_and_the_largest_eigenvalue(make, ours, theirs):
    model, x, y = make()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=(len(x) + 1) // 2)
    matrix = ours(objective, precision="float64")
    double = model.double()
    batches = [(x.double()[part], y[part]) for part in torch.arange(len(x)).split((len(x) + 1) // 2)]
    params = {name: p for name, p in double.named_parameters() if p.requires_grad}
    assert list(params) == list(matrix.names)
    oracle = getattr(curvlinops, f"{theirs}LinearOperator")(
        double, nn.CrossEntropyLoss(), list(params.values()), batches, check_deterministic=False
    )
    vectors = torch.randn(2, matrix.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for vector, product in zip(vectors, matrix.derive(list(vectors)).products, strict=True):
        expected = oracle @ vector
        assert torch.linalg.vector_norm(product - expected) <= 1e-8 * torch.linalg.vector_norm(expected)
    pairs = ln.curvature.top_eigenpairs(
        ln.curvature.OPERATORS[matrix.kind](objective, precision="float64"), tolerance=1e-3
    )
    largest = eigsh(oracle.to_scipy(), k=1, which="LA", tol=1e-3, return_eigenvectors=False)
    assert np.allclose(pairs.values, largest, rtol=1e-4)
