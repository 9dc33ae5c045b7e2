"""A name is taken by whoever registered it first; the same definition may come again."""

import types

import pytest

import lossnav as ln
from lossnav import errors
from lossnav._utils.definitions import is_same_definition
from lossnav.charts import registry as charts
from lossnav.directions import registry as directions
from lossnav.samplers import registry as samplers


def made_in(module, text):
    """What a text defines in a module of this name, which is not kept."""
    names = {"__name__": module, "ln": ln}
    exec(compile(text, f"/somewhere/{module}.py", "exec"), names)
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("text", ["def thing():\n    pass", "class thing:\n    def method(self):\n        pass"])
def test_one_definition_is_one_however_often_it_is_made(text):
    assert is_same_definition(made_in("a", text).thing, made_in("a", text).thing)
    assert not is_same_definition(made_in("a", text).thing, made_in("b", text).thing)


@pytest.mark.parametrize(
    ("registry", "register", "text", "error"),
    [
        (charts, charts.register(), "class thing(ln.Chart):\n    pass", errors.ChartError),
        (samplers, samplers.register(), "class thing(ln.Sampler):\n    pass", errors.SamplerError),
        (directions, directions.register("thing"), "def thing(objective):\n    pass", errors.DirectionError),
    ],
)
def test_the_name_of_another_is_refused(registry, register, text, error, monkeypatch):
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    register(made_in("a", text).thing)
    register(made_in("a", text).thing)  # run again
    with pytest.raises(error, match="registered already"):
        register(made_in("b", text).thing)


@pytest.mark.parametrize("name", ["Grid", "Adaptive", "Points"])
def test_ours_are_not_replaced_by_a_class_of_the_same_name(name):
    with pytest.raises(errors.SamplerError, match="registered already, from lossnav"):
        samplers.register()(getattr(made_in("mine", f"class {name}(ln.Sampler):\n    pass"), name))
    assert samplers.kinds()[name].sampler is getattr(ln, name)


@pytest.mark.parametrize("name", ["random", "gradient", "between", "pca"])
def test_our_directions_are_not_replaced(name):
    with pytest.raises(errors.DirectionError, match="registered already"):
        directions.register(name)(getattr(made_in("mine", f"def {name}(objective):\n    pass"), name))
