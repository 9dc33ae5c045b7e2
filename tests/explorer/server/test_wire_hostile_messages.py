"""Messages that no page would send, as the benchmark draws and counts them; the runs are in tests/chaos."""

import random

from benchmarks import chaos_messages

from lossnav.explorer.requests.stop import StopRequest
from lossnav.explorer.requests.views import CodeRequest

pytest_plugins = ["talking"]


def test_a_fault_is_counted(explorer, monkeypatch):
    """The check can fail: an answer that breaks is an error, and one that never comes is a hang."""

    def broken(request, handler, client):
        raise KeyError("a bug")

    monkeypatch.setattr(chaos_messages, "spoilt", lambda dice, number: f'{{"type":"code","id":{number},"view":{{}}}}')
    monkeypatch.setattr(CodeRequest, "stored", broken)
    assert chaos_messages.fire(explorer.url, 3)["errors"] == 3
    monkeypatch.setattr(StopRequest, "stored", lambda request, handler, client: None)
    monkeypatch.setattr(chaos_messages, "PATIENCE", 0.01)
    assert chaos_messages.fire(explorer.url, 2)["hangs"] == 2


def test_messages_are_the_same_by_their_seed():
    one, other = ([chaos_messages.spoilt(random.Random(s), 1) for _ in range(3)] for s in (1, 1))
    assert one == other
    kinds = {str(chaos_messages.spoilt(random.Random(s), 1))[:20] for s in range(200)}
    assert len(kinds) > 10
