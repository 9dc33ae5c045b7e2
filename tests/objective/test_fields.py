"""Every way of making an objective sets the same attributes, and carries along those that it does not change."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.objective.fields import ObjectiveFields

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 2, (12,), generator=torch.Generator().manual_seed(1))
FIELDS = {field.name for field in dataclasses.fields(ObjectiveFields)}
CACHED = {"fingerprint", "_data"}


def of_model(**options):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    return ln.Objective(model, "cross_entropy", (X, Y), metrics=["accuracy"], batch_size=5, **options)


def of_function():
    return ln.Objective.from_function(
        lambda p, batch: ((batch[0] @ p["w"]) ** 2).mean(1), {"w": torch.eye(3)}, (X, Y), reduction="none", batch_size=5
    )


def of_bare_function():
    return ln.Objective.from_function(lambda p: (p["w"] ** 2).sum(), {"w": torch.ones(3)})


MAKERS = {
    "a model": of_model,
    "a model, on a subset": lambda: of_model(subset=6),
    "a model, in train mode": lambda: of_model(mode="train"),
    "a model, with count=": lambda: of_model(count=len),
    "a function with data": of_function,
    "a function without data": of_bare_function,
}
OF_WEIGHTS = {"params", "_held", "_buffers", "origin", "_weights", "_of_all"}
OF_MOVING = {"params", "_held", "roles", "transposed", "_layers", "_plans", "_verdicts"}
WAYS = {  # how another objective is made of one, and the fields that it may change
    "copy": (copy.copy, set()),
    "subset": (
        lambda o: o.subset(6),
        {"batches", "samples", "population", "subset_seed", "_of_all", "_plans"},
    ),
    "at": (lambda o: o.at(o.params | o.forward_pass.held | o.forward_pass.buffers), OF_WEIGHTS),
    "around": (lambda o: o.around(o.params), OF_WEIGHTS),
    "moving": (lambda o: o.moving("*"), {*OF_MOVING, "moves", "_also", "origin"}),
    "moving_also": (lambda o: o.moving_also(o.forward_pass.held), {*OF_MOVING, "_also"}),
    "moving_only": (lambda o: o.moving_only(list(o.params)[:1]), OF_MOVING),
    "keeping_samples": (lambda o: o.keeping_samples(), {"_keeps_samples"}),
    "double": (lambda o: o.double(), {"params", "_held", "_buffers", "batches", "_pass", "_plans", "origin"}),
    "apart": (lambda o: o.apart(), {"_pass"}),
    "without_metrics": (lambda o: o.without_metrics(), {"_pass"}),
}


def attributes(objective):
    return set(vars(objective)) - CACHED


@pytest.mark.parametrize("maker", MAKERS)
def test_every_way_of_building_sets_the_same_attributes(maker):
    objective = MAKERS[maker]()
    objective.evaluate(objective.params)
    objective.describe()
    assert attributes(objective) == FIELDS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("maker", ["a model", "a function with data"])
def test_a_way_changes_its_own_fields_and_carries_all_others(maker, way):
    objective = MAKERS[maker]()
    objective.evaluate(objective.params)
    for name in FIELDS:  # a mark that no way can make anew
        if name.startswith("_metrics_cut") or name in ("name", "origin"):
            setattr(objective, name, {"mark": name} if name != "name" else "mark")
    make, may_change = WAYS[way]
    made = make(objective)
    assert attributes(made) == FIELDS
    changed = {name for name in FIELDS if getattr(made, name) is not getattr(objective, name)}
    assert changed <= may_change | {"samples"} if way == "subset" else changed <= may_change


@pytest.mark.parametrize("send", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_objectives_that_are_sent_have_the_same_attributes(send):
    assert attributes(send(of_model())) == FIELDS


def test_a_new_attribute_cannot_be_forgotten():
    @dataclasses.dataclass(kw_only=True, eq=False, repr=False)
    class WithOneMore(ObjectiveFields):
        _new: int

    values = {name: getattr(of_model(), name) for name in FIELDS}
    with pytest.raises(TypeError, match="_new"):  # a builder that does not give it
        WithOneMore(**values)
    with pytest.raises(TypeError, match="nothing"):  # a way that changes what is no field
        of_model()._with(nothing=1)


def test_an_attribute_of_a_users_subclass_is_carried_along():
    class Named(ln.Objective):
        pass

    objective = Named.from_function(lambda p: (p["w"] ** 2).sum(), {"w": torch.ones(3)})
    objective.label = "mine"
    assert objective.around({"w": torch.zeros(3)}).label == "mine"
    assert type(objective.double()) is Named


@pytest.mark.parametrize("way", WAYS)
def test_fingerprints_that_were_known_before_are_those_that_are_asked_for_after(way):
    make, _ = WAYS[way]
    asked_before, fresh = of_model(), of_model()
    assert asked_before.fingerprint == fresh.fingerprint
    assert make(asked_before).fingerprint == make(fresh).fingerprint
    assert make(asked_before).data_fingerprint == make(fresh).data_fingerprint


def test_metrics_belong_to_the_fingerprint():
    objective = of_model()
    assert objective.fingerprint != objective.without_metrics().fingerprint
