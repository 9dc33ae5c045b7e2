"""A bar counts units and says when they are done; by a clock that the tests turn."""

import sys

import pytest

import lossnav as ln
from lossnav._utils.progress import Progress, track


class Clock:
    """Stands still unless it is moved, or moves by itself at every look."""

    def __init__(self, step=0.0):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


class Later:
    """A timer that rings when the test says so."""

    def __init__(self):
        self.waiting = None

    def __call__(self, seconds, function):
        self.waiting = function
        return self

    def start(self):
        pass

    def cancel(self):
        self.waiting = None

    def ring(self):
        self.waiting()


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_log_file_gets_a_line_now_and_then(capsys):
    clock = Clock()
    with Progress("evaluate", 10, "points", show=True, clock=clock) as bar:
        for _ in range(10):
            clock.now += 4
            bar.advance()
    assert lines(capsys) == [
        "evaluate: 3/10 points, 0.25 points/s, ETA 0:00:28",
        "evaluate: 6/10 points, 0.25 points/s, ETA 0:00:16",
        "evaluate: 9/10 points, 0.25 points/s, ETA 0:00:04",
    ]


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_said_where_nobody_looks(capsys, show):
    assert list(track(iter("abc"), "read", "letters", show)) == ["a", "b", "c"]
    with Progress("evaluate", 10, "points", show, clock=Clock(4.0), later=lambda *_: pytest.fail("a timer")) as bar:
        with bar.phase("planning"):
            pass
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_an_unknown_total_has_no_eta(capsys):
    with Progress("read", None, "files", show=True, clock=Clock(4.0)) as bar:
        for _ in range(8):
            bar.advance()
    said = capsys.readouterr().err
    assert "files/s" in said
    assert "ETA" not in said


def test_a_terminal_gets_a_bar_after_a_second(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    clock = Clock()
    with Progress("evaluate", 3, "points", clock=clock) as bar:
        bar.advance()
        assert bar._bar is None
        clock.now = 1.5
        bar.advance(2)
        assert bar._bar is not None
        bar.say("half-way")
    assert "half-way" in capsys.readouterr().err


def test_what_an_earlier_run_found_is_no_speed():
    clock = Clock()
    with Progress("evaluate", 100, "points", show=False, clock=clock) as bar:
        bar.advance(90, known=True)
        assert bar.left is None
        clock.now = 4.0
        bar.advance(4)
        assert bar.done == 94
        assert bar.rate == 4 / 4
        assert bar.left == 6.0


def test_planning_is_no_point():
    """A run of 36 s: 6 s of planning, 300 points of 0.1 s. After the first point 29.9 s are left, not half an hour."""
    clock = Clock()
    with Progress("evaluate", 300, "points", show=False, clock=clock) as bar:
        with bar.phase("planning"):
            clock.now += 6
        clock.now += 0.1
        bar.advance()
        assert bar.left == pytest.approx(29.9)
        assert bar.rate == pytest.approx(10.0)


def test_the_rest_is_reckoned_by_what_was_done_of_late(capsys):
    """Of 200 points the first 100 take 0.1 s each and the others a second."""
    clock = Clock()
    with Progress("evaluate", 200, "points", show=True, clock=clock) as bar:
        for i in range(140):
            clock.now += 0.1 if i < 100 else 1.0
            bar.advance()
        assert bar.left == pytest.approx(60.0, rel=0.1)
        assert 60 / bar.rate == pytest.approx(21.4, rel=0.01)  # by the whole run it would be a third of that


def test_slow_points_are_reckoned_too():
    """Points that take longer than what counts as of late."""
    clock = Clock()
    with Progress("evaluate", 10, "points", show=True, clock=clock) as bar:
        for _ in range(3):
            clock.now += 100
            bar.advance()
        assert bar.left == pytest.approx(700.0)


def test_a_phase_that_lasts_is_said_in_a_log_and_one_that_does_not_is_not(capsys):
    later = Later()
    with Progress("evaluate", 3, "points", show=True, clock=Clock(), later=later) as bar:
        with bar.phase("checking the centre"):
            pass
        assert later.waiting is None
        with bar.phase("planning"):
            later.ring()
    assert lines(capsys) == ["evaluate: planning …"]


def test_a_phase_that_lasts_is_on_the_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    later = Later()
    with Progress("evaluate", None, "points", clock=Clock(), later=later) as bar:
        with bar.phase("planning"):
            assert bar._bar is None
            later.ring()
            assert bar._bar.tasks[0].description == "evaluate: planning …"
        bar.total = 5
        bar.advance()
        assert bar._bar.tasks[0].description == "evaluate"
        assert bar._bar.tasks[0].total == 5


def test_an_evaluation_names_its_phases(monkeypatch):
    import torch

    named = []
    real = Progress.phase
    monkeypatch.setattr(Progress, "phase", lambda self, words: (named.append((words, self.done)), real(self, words))[1])
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(2)})
    line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    ln.evaluate(bowl, line, ln.Grid(alpha="auto"), progress=False)
    assert named == [("checking the centre", 0), ("preparing", 0), ("planning", 0)]
