"""A loss of several means over the same targets has one value whatever the batches: an auxiliary head, say."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

N = 10
G = torch.Generator().manual_seed(3)
x, wanted = torch.randn(N, 5, generator=G), torch.randn(N, 4, generator=G)
images = torch.randn(N, 2, 4, 4, generator=G)
classes = torch.randint(0, 3, (N,), generator=G)
late = classes.clone()
late[[7, 8]] = 255  # nothing is ignored in the first batches
early = classes.clone()
early[[0, 4, 5]] = 255
masks = torch.randint(0, 3, (N, 4, 4), generator=G)
masks[4:7, :2] = 255


class TwoHeads(nn.Module):
    def __init__(self, layer=nn.Linear, arguments=(5, 3)):
        super().__init__()
        torch.manual_seed(1)
        self.out, self.aux = layer(*arguments), layer(*arguments)

    def forward(self, x):
        return {"out": self.out(x), "aux": self.aux(x)}


def segmentation(outputs, targets):
    """As the reference scripts of torchvision have it."""
    losses = {name: F.cross_entropy(value, targets, ignore_index=255) for name, value in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"]


def smooth(outputs, targets):
    hard = F.cross_entropy(outputs["out"], targets, ignore_index=255)
    soft = F.cross_entropy(outputs["aux"], targets, ignore_index=255, label_smoothing=0.2)
    return 0.9 * hard + 0.1 * soft


def likelihoods(outputs, targets):
    return sum(F.nll_loss(value.log_softmax(1), targets, ignore_index=255) for value in outputs.values()) / 2


def of_valid(outputs, targets):
    valid = targets != 255
    squares = F.mse_loss(outputs["aux"][valid], outputs["out"][valid] + 1)  # three elements a target
    return F.cross_entropy(outputs["out"], targets, ignore_index=255) + 0.3 * squares


LOSSES = {
    f"{loss.__name__}, {when}": (TwoHeads, loss, (x, targets))
    for loss in (segmentation, smooth, likelihoods, of_valid)
    for when, targets in (("late", late), ("early", early), ("all count", classes))
}
LOSSES["pixels"] = (lambda: TwoHeads(nn.Conv2d, (2, 3, 1)), segmentation, (images, masks))


@pytest.mark.parametrize("size", [3, 4, 7, N])
@pytest.mark.parametrize("kind", LOSSES)
def test_one_value_whatever_the_batches_of_several_means(kind, size):
    make, loss, data = LOSSES[kind]
    objective = ln.Objective(make().eval(), loss, data, batch_size=size)
    point = {name: 0.7 * tensor + 0.1 for name, tensor in objective.params.items()}
    for at in (objective.params, point):
        model = make().eval()
        model.load_state_dict(at)
        with torch.no_grad():
            assert objective.evaluate(at)["loss"] == pytest.approx(loss(model(data[0]), data[1]).item(), rel=1e-5)
    assert objective.describe()["cut"] is None
    model = make().eval()
    loss(model(data[0]), data[1]).backward()
    gradient = ln.curvature.gradient(objective)
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradient[name].float(), parameter.grad, rtol=1e-4, atol=1e-6)


def product(outputs, targets):
    return F.cross_entropy(outputs["out"], targets, ignore_index=255) * F.cross_entropy(outputs["aux"], targets)


def two_masks(outputs, targets):
    first = F.cross_entropy(outputs["out"], targets[:, 0], ignore_index=255)
    return first + F.cross_entropy(outputs["aux"], targets[:, 1], ignore_index=255)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [(lambda o, t: product(o, t % 253), early), (two_masks, torch.stack([early, late], 1))],
    ids=["a product", "two masks"],
)
def test_means_that_no_weight_joins_are_told(loss, targets):
    with pytest.warns(errors.BatchDependenceWarning):
        ln.Objective(TwoHeads().eval(), loss, (x, targets), batch_size=5)
