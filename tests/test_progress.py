import sys

import pytest

from lossnav import progress as module
from lossnav.progress import Progress, track


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock finds it four seconds later."""
    now = [0.0]

    def tick():
        now[0] += 4
        return now[0]

    monkeypatch.setattr(module.time, "monotonic", tick)


def test_a_log_file_gets_a_line_now_and_then(clock, capsys):
    with Progress("evaluate", 10, "points", show=True) as bar:
        for _ in range(10):
            bar.advance()
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) < 10
    assert said[0].startswith("evaluate: ")
    assert "/10 points" in said[0]
    assert "points/s, ETA 0:0" in said[0]


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_said_where_nobody_looks(clock, capsys, show):
    assert list(track(iter("abc"), "read", "letters", show)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_an_unknown_total_has_no_eta(clock, capsys):
    list(track(iter(range(8)), "read", "files", show=True))
    said = capsys.readouterr().err
    assert "files/s" in said
    assert "ETA" not in said


def test_a_terminal_gets_a_bar_after_a_second(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("evaluate", 3, "points") as bar:
        bar.advance(3)
        assert bar._bar is not None
        bar.say("half-way")
    assert "half-way" in capsys.readouterr().err


def test_what_an_earlier_run_found_is_no_speed(clock):
    with Progress("evaluate", 100, "points", show=False) as bar:
        bar.advance(90, known=True)
        bar.advance(4)
        assert bar.done == 94
        assert bar.rate == 4 / 4
