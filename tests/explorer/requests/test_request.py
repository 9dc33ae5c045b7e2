"""Messages are checked field by field, and one that a stranger declares is answered like our own."""

import contextlib
import json
import sys
from dataclasses import fields as attributes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lossnav as ln
from living import WINDOW, Page, bowl, of
from lossnav.errors import OptionError, RequestError
from lossnav.explorer import requests
from lossnav.explorer.requests import fields, request
from lossnav.explorer.server import wire
from lossnav.explorer.server.server import Explorer
from lossnav.explorer.stored.handlers import Handler
from lossnav.explorer.stored.session import open_session
from talking import Browser, is_idle

pytest_plugins = ["talking", "living"]

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["hello", "window", "point", "line", "ball", "place", "go", "stop", "code", "bookmark"])
WORDS = st.sampled_from(
    [
        "id",
        "ranges",
        "at",
        "from",
        "to",
        "points",
        "optimizer",
        "lr",
        "steps",
        "batch",
        "seed",
        "center",
        "axes",
        "place",
    ]
)


@given(KINDS, st.dictionaries(WORDS, JSON, max_size=6), st.integers(1, 3))
def test_whatever_comes_is_a_request_or_an_error_of_ours(type_, words, k):
    with contextlib.suppress(OptionError, RequestError):
        read = wire.read(json.dumps({"type": type_, **words}))
        assert requests.parse(read, k).type == type_


def test_words_that_are_left_out_have_their_defaults():
    ball = requests.parse({"type": "ball", "at": [1, 2]}, 2)
    assert (ball.optimizer, ball.lr, ball.steps, ball.batch, ball.seed) == ("sgd", 0.1, 200, None, 0)
    assert requests.parse({"type": "line", "from": [0], "to": [1]}, 1).points == 41
    place = requests.parse({"type": "place", "axes": {"kind": "keep"}}, 2)
    assert place.center is None and (place.axes.kind, place.axes.seed, place.axes.checkpoint) == ("keep", 0, None)


FIELDS = {  # what a message of each type has, a value that is valid for two coordinates, and some that are not
    "window": {"ranges": ([[-1, 1], [0, 2]], [[1, -1], [0, 2]], [[-1, 1]], [[0, 1e7], [0, 1]], "wide", None)},
    "point": {"at": ([0, 1], [0], [0, 1, 2], [0, float("inf")], [0, True], [0, 2e6], None)},
    "line": {
        "from": ([0, 0], [0], None),
        "to": ([1, 1], [1], "there"),
        "points": (5, 1, 202, 2.5, True, "five"),
    },
    "ball": {
        "at": ([0, 1], "here"),
        "optimizer": ("adam", "lion", 3),
        "lr": (0.1, 0, -1, float("nan"), True, "fast"),
        "steps": (3, 0, 10_001, 2.0),
        "batch": (4, 0, 1.5, True),
        "seed": (1, -1, 2**54),
    },
    "place": {
        "center": ([0, 0], [0]),
        "axes": (
            {"kind": "checkpoint", "checkpoint": "a.safetensors"},
            {"kind": "checkpoint"},
            {"kind": "checkpoint", "checkpoint": "a\n"},
            {"kind": "random", "seed": -1},
            {"kind": "east"},
            "random",
            None,
        ),
    },
    "go": {"place": (0, -1, 0.5, None)},
    "code": {"view": ({"log": True}, "all", {"a": "x" * 9000}, None)},
    "bookmark": {"name": ("mine", "", "x" * 1001, 7, None), "view": ({}, [], "all")},
    "hello": {},
    "stop": {},
}


def test_each_field_is_checked():
    assert set(FIELDS) == set(requests.declared())
    for type_, values in FIELDS.items():
        valid = {"type": type_, "id": 3, **{name: first for name, (first, *_) in values.items()}}
        assert requests.parse(valid, 2).id == 3
        for name, (_, *invalid) in values.items():
            for value in invalid:
                with pytest.raises(OptionError, match=r"must be .*, got .*\.$") as raised:
                    requests.parse(valid | {name: value}, 2)
                nested = {"axes": ("axes", "kind", "seed", "checkpoint")}.get(name, (name,))
                assert str(raised.value).split()[0] in nested
    for message in ({"type": "fly"}, {"type": ["go"]}, {}, {"type": "hello", "id": 1.5}, {"type": "hello", "id": "1"}):
        with pytest.raises(OptionError, match=r"^(type|id) must be .*, got .*\.$"):
            requests.parse(message, 2)


SOURCES = list(Path(request.__file__).parent.parent.rglob("*.py"))


def test_a_request_is_declared_in_one_place():
    """Its type, fields and answer are one class of one file."""
    for type_, declared in requests.declared().items():
        assert declared.type == type_
        assert declared.__module__.startswith("lossnav.explorer.requests.")
        assert [path.name for path in SOURCES if f'declare("{type_}")' in path.read_text()] == [
            Path(sys.modules[declared.__module__].__file__).name
        ]
        assert next(field.name for field in attributes(declared)) == "id"
        answers = {"stored", "live", "work"} & set(vars(declared))
        assert answers and ("work" in answers) == (declared.rank is not None)


@pytest.fixture
def farthest(monkeypatch):
    """A request as somebody else declares one: the farthest measured point within a distance, and the loss there."""
    monkeypatch.setattr(request, "_DECLARED", dict(request._DECLARED))

    @requests.declare("farthest")
    class FarthestRequest(requests.Request):
        rank = request.POINT

        at: np.ndarray = fields.coordinates()
        within: float = fields.number(0, 10, 1.0)

        def stored(self, handler, client):
            rows = handler.session.place(client.place).rows()
            away = [(float(np.linalg.norm(np.array(row.point) - self.at)), row) for row in rows]
            distance, row = max((pair for pair in away if pair[0] <= self.within), key=lambda pair: pair[0])
            client.send({"type": "farthest", "id": self.id, "distance": distance, "loss": row.values["loss"]})

        def work(self, task):
            (row,) = task.live_place.measure([self.at + np.array([self.within, 0])])
            task.live_place.flush()
            yield
            task.client.send({"type": "farthest", "id": self.id, "distance": self.within, "loss": row.values["loss"]})

    return FarthestRequest


def test_a_strangers_request_is_answered_on_a_stored_surface(stored, farthest):
    explorer = Explorer(Handler(open_session(stored)))
    try:
        with Browser(explorer) as page:
            page.ask("hello")
            answer = page.ask("farthest", id=1, at=[0, 0], within=1.2)
            points, losses = ln.open(stored).lossnav.points()
            away = np.hypot(*np.transpose(points))
            i = np.argmax(np.where(away <= 1.2, away, -1))
            assert (answer["distance"], answer["loss"]) == (pytest.approx(away[i]), pytest.approx(losses[i]))
            wrong = page.ask("farthest", id=2, at=[0, 0], within=11)
            assert wrong["said"] == "within must be a number from 0 to 10, got 11."
    finally:
        explorer.close()


def test_a_strangers_request_is_evaluated_in_a_live_session(started, coarse, farthest):
    objective, plane, _ = bowl()
    page = Page(started(objective, plane))
    page.whole("window", ranges=WINDOW)
    seen = page.whole("farthest", at=[0.1, 0.3], within=0.7)
    (answer,) = of(seen, "farthest")
    x, y = 0.8, 2 * 0.3
    assert answer["loss"] == pytest.approx(1 + x**2 + y**2 + x * y, rel=1e-12)
    assert is_idle(seen[-1])


def test_what_has_to_be_evaluated_is_refused_on_a_stored_surface(stored):
    handler = Handler(open_session(stored))
    page = Page(handler)
    for type_, words in (("line", {"from": [0, 0], "to": [1, 1]}), ("ball", {"at": [0, 0]}), ("place", KEPT)):
        with pytest.raises(OptionError, match=r"nothing can be evaluated on it\. Explore its objective"):
            page.ask(type_, **words)


KEPT = {"axes": {"kind": "keep"}}
