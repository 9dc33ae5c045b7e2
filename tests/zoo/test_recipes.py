import pytest
import torch

import lossnav as ln
from lossnav import errors


@pytest.mark.parametrize(
    ("name", "label", "depth", "width", "skip", "lr"),
    [
        ("resnet20", "ResNet-20", 20, 1, True, 0.1),
        ("resnet20-noshort", "ResNet-20-noshort", 20, 1, False, 0.1),
        ("resnet56-noshort", "ResNet-56-noshort", 56, 1, False, 0.01),
        ("resnet56-wide2", "ResNet-56-wide2", 56, 2, True, 0.1),
        ("resnet62-wide8-noshort", "ResNet-62-wide8-noshort", 62, 8, False, 0.01),
    ],
)
def test_a_name_says_what_the_network_is(name, label, depth, width, skip, lr):
    found = ln.zoo.recipe(name)
    assert (found.name, found.data, found.label) == (name, "cifar10", label)
    training = dict(found.training)
    assert training.pop("drops") == (150 / 300, 225 / 300, 275 / 300)
    assert training == {
        "passes": 300, "batch_size": 128, "lr": lr, "optimizer": "sgd", "weight_decay": 5e-4,
        "augment": True, "order": "shuffled",
    }  # fmt: skip
    if width == 8:
        return
    model = found.model(seed=2)
    assert len(model.layer1) == (depth - 2) // 6
    assert model.conv1.out_channels == 16 * width
    assert {block.skip for stage in (model.layer1, model.layer2, model.layer3) for block in stage} == {skip}
    assert torch.equal(model.conv1.weight, ln.zoo.resnet(depth, width=width, skip=skip, seed=2).conv1.weight)


@pytest.mark.parametrize(
    "name", ["resnet", "resnet21", "resnet2", "resnet20-wide0", "resnet20-short", "vgg16", "xresnet20"]
)
def test_names_that_are_none(name):
    with pytest.raises(errors.SpecError, match=r"zoo:resnet"):
        ln.zoo.recipe(name)


def test_options_override_the_recipes_training(monkeypatch):
    from lossnav.zoo import recipes

    given = {}
    monkeypatch.setattr(recipes, "train", lambda model, data, **options: given.update(options))
    ln.zoo.recipe("vgg9").train(None, None, passes=2, lr=None, held_out=5)
    assert (given["passes"], given["lr"], given["held_out"], given["batch_size"]) == (2, 0.1, 5, 128)


def test_the_first_training_samples():
    data = ln.zoo.digits()
    few = data.first(7)
    assert torch.equal(few.train[0], data.train[0][:7]) and len(few.train[1]) == 7
    assert few.test is data.test
    assert len(data.first(None).train[0]) == 1397
    for n in (0, 1398):
        with pytest.raises(errors.OptionError, match="1,397"):
            data.first(n)
