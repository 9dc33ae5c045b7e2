"""No page starves another, nothing waits without a bound, and what is refused says which request it was."""

import threading

import pytest

import lossnav as ln
from living import WINDOW, Page, bowl, of
from lossnav.errors import OptionError
from lossnav.explorer.live import worker
from lossnav.explorer.stored.session import open_session
from talking import is_idle

pytest_plugins = ["living"]
pytestmark = pytest.mark.usefixtures("coarse")

LINE = {"from": [0, -1], "to": [1, -1], "points": 21}


class Gate:
    """A bowl whose points wait until they are let through."""

    def __init__(self):
        self.objective, self.plane, self.calls = bowl()
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()

    def shut(self):
        self.open.clear()
        self.reached.clear()

    def start(self, started):
        handler = started(self.objective, self.plane)
        ground = handler.live_places[0]
        compute = ground._compute

        def waiting(points):
            self.reached.set()
            assert self.open.wait(60)
            return compute(points)

        ground._compute = waiting
        return handler


@pytest.fixture
def gate():
    held = Gate()
    yield held
    held.open.set()


def hold(gate, page):
    """Have the worker in the middle of a point."""
    page.whole("window", ranges=WINDOW)
    gate.shut()
    page.ask("point", at=[0.9123, 0.1])
    assert gate.reached.wait(60)


@pytest.mark.parametrize("what", ["line", "ball", "place"])
def test_what_waits_of_one_page_is_bounded_and_the_refusal_says_what_to_do(started, gate, what):
    handler = gate.start(started)
    one, other = Page(handler), Page(handler)
    hold(gate, other)
    words = {"line": LINE, "ball": {"at": [0.5, 0.5]}, "place": {"axes": {"kind": "keep"}}}[what]
    for _ in range(worker.MOST_TASKS):
        one.ask(what, **words)
    for _ in range(50):
        with pytest.raises(OptionError, match=f"16 requests of this page.*this {what} is refused"):
            one.ask(what, **words)
    other.ask("line", **LINE)  # the bound is one page's own
    one.ask("stop", id=None)
    one.ask(what, **words)
    one.ask("stop", id=None)


def test_a_page_with_thousands_of_requests_takes_one_turn_for_each_of_another(started, gate):
    handler = gate.start(started)
    greedy, modest = Page(handler), Page(handler)
    hold(gate, modest)
    refused = 0
    for i in range(3000):
        try:
            greedy.ask("line", **{"from": [i, 0], "to": [i, 1], "points": 201})
        except OptionError:
            refused += 1
    assert refused == 3000 - worker.MOST_TASKS
    number = modest.ask("line", **LINE)
    before = gate.calls.calls
    gate.open.set()
    seen = modest.until(lambda m: is_idle(m) and m["id"] == number)
    assert of(seen, "line")[-1]["finished"]
    # 21 of its own and one of the other's for each; the step under way, and what the worker did until we looked
    mine = handler.live_places[0].place
    assert sum(mine.get(at) is not None for at in of(seen, "line")[-1]["at"]) == 21
    assert gate.calls.calls - before <= 2 * 21 + 8
    greedy.ask("stop", id=None)


def test_clicks_without_end_leave_turns_to_a_line(started, gate):
    """A point is more urgent than a line of the same page, and not than another page's."""
    handler = gate.start(started)
    clicking, waiting = Page(handler), Page(handler)
    hold(gate, clicking)
    for i in range(500):
        clicking.ask("point", at=[0.001 * i, 0.7])
    for _ in range(10):
        clicking.ask("place", axes={"kind": "keep"})  # as urgent as points
    number = waiting.ask("line", **{**LINE, "points": 2})
    gate.open.set()
    waiting.until(lambda m: is_idle(m) and m["id"] == number)
    assert len(handler.session.places) < 10  # by then the other is not through
    clicking.ask("stop", id=None)


def test_of_points_the_last_alone_waits(started, gate):
    handler = gate.start(started)
    page = Page(handler)
    hold(gate, page)
    numbers = [page.ask("point", at=[0.01 * i, 0.3]) for i in range(100)]
    assert len(handler._tasks) <= 2
    gate.open.set()
    seen = page.until(lambda m: is_idle(m) and m["id"] == numbers[-1])
    assert {m["id"] for m in seen if is_idle(m)} >= set(numbers)  # each was told that it ended
    assert {m["id"] for m in of(seen, "point")} & set(numbers) == {numbers[-1]}


def test_a_page_that_leaves_takes_its_requests_along(started, gate):
    handler = gate.start(started)
    leaving, staying = Page(handler), Page(handler)
    hold(gate, staying)
    for _ in range(10):
        leaving.ask("line", **LINE)
    handler.leave(leaving.client)
    assert not [task for task in handler._tasks if task.client is leaving.client]


def test_the_end_does_not_wait_for_a_point_that_takes_long(started, gate, tmp_path):
    handler = gate.start(started)
    page = Page(handler)
    hold(gate, page)
    shown = {tuple(row.point) for row in handler.live_places[0].place.rows()}
    assert not handler.close(patience=0.0)
    assert {tuple(row.point) for row in open_session(tmp_path / "run.zarr").place(0).rows()} >= shown
    gate.open.set()
    assert handler.close()  # and the point that was under way is kept too
    points, _ = ln.open(tmp_path / "run.zarr").lossnav.points()
    assert (0.9123, 0.1) in set(map(tuple, points.tolist()))
