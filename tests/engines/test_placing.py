"""How long a run waits for its first worker, by a clock that the tests turn and a cluster that says what it is told."""

import pytest

from lossnav.engines.cluster import Cluster
from lossnav.engines.placing import Placing
from lossnav.errors import ClusterError


class FakeRay:
    """What a cluster says of itself: a list of nodes, each with its CPUs, GPUs and how many of them are free."""

    def __init__(self, *nodes):
        self.held = list(nodes)

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus, *_ in self.held]

    class _private:  # noqa: N801 - as it is called in Ray
        state = None


class State:
    def __init__(self, ray):
        self.ray = ray

    def available_resources_per_node(self):
        return {str(i): {"CPU": free, "GPU": gpus} for i, (_, _, free, gpus) in enumerate(self.ray.held)}


class Private:
    """A private cluster whose workers die or live."""

    words = None

    def dead_starts(self):
        return self.words


@pytest.fixture
def shared(monkeypatch):
    """Makes a cluster of others, with the nodes given as (CPUs, GPUs, free CPUs, free GPUs)."""

    def make(*nodes):
        ray = FakeRay(*nodes)
        ray._private.state = State(ray)
        monkeypatch.setattr("lossnav.engines.cluster.ray_module", lambda: ray)
        return Cluster("local"), ray

    return make


@pytest.fixture
def private(shared):
    cluster, _ = shared((2, 0, 0, 0))
    cluster.private = Private()
    return cluster


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def hours(placing, clock, count=3.0, step=5.0):
    """What is said while so many hours go by."""
    said = []
    for _ in range(int(count * 3600 / step)):
        clock.now += step
        said.append(placing.waiting())
    return said


def test_a_private_cluster_is_waited_for_as_long_as_it_starts(private):
    clock = Clock()
    said = hours(Placing(private, 1, 0, clock), clock)
    assert said[0] == "a worker starts, 5 s" and said[-1] == "a worker starts, 10800 s"
    assert not any("others" in words for words in said)


def test_a_worker_that_dies_while_it_starts_is_an_error_at_the_next_look(private):
    clock = Clock()
    placing = Placing(private, 1, 0, clock)
    assert placing.waiting() == "a worker starts, 0 s"
    private.private.words = "ImportError: libfoo.so.1"
    clock.now += 4
    with pytest.raises(ClusterError, match="died while they started.*ImportError: libfoo.so.1"):
        placing.waiting()


def test_where_there_was_room_a_worker_starts_and_is_waited_for(shared):
    clock = Clock()
    cluster, ray = shared((2, 0, 2, 0))
    placing = Placing(cluster, 1, 0, clock)
    ray.held[0] = (2, 0, 0, 0)  # our own workers have it now
    said = hours(placing, clock, count=0.49)
    assert said[-1].startswith("a worker starts, ") and not any("others" in words for words in said)
    with pytest.raises(ClusterError, match=r"There were free resources for a worker.*within 30 minutes.*raylet\.err"):
        hours(placing, clock, count=0.1)


def test_room_that_comes_later_counts(shared):
    clock = Clock()
    cluster, ray = shared((2, 0, 0, 0))
    placing = Placing(cluster, 1, 0, clock)
    clock.now += 40
    assert placing.waiting() == "others use the cluster (0 of 2 CPUs are free), 40 s"
    ray.held[0] = (2, 0, 1, 0)
    clock.now += 5
    assert placing.waiting() == "a worker starts, 45 s"
    assert hours(placing, clock, count=0.2)


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "words"),
    [
        ([(8, 0, 3, 0)], 4, 0, "3 of 8 CPUs are free"),
        ([(4, 0, 2, 0), (4, 0, 2, 0)], 4, 0, "4 of 8 CPUs are free"),  # enough on both together, and on none alone
        ([(4, 2, 4, 0.25)], 1, 0.5, "4 of 4 CPUs and 0.25 of 2 GPUs are free"),
        ([(1, 0, 1, 0), (4, 1, 0, 1)], 2, 1, "1 of 5 CPUs and 1 of 1 GPUs are free"),
    ],
)
def test_a_cluster_that_others_hold_is_given_up_after_a_minute_with_what_is_free(shared, nodes, cpus, gpus, words):
    clock = Clock()
    placing = Placing(shared(*nodes)[0], cpus, gpus, clock)
    clock.now += 60
    assert words in placing.waiting()
    clock.now += 4
    with pytest.raises(ClusterError, match=f"needs {cpus} CPUs and {gpus:g} GPUs.*{words}.*cpus_per_worker="):
        placing.waiting()


def test_no_node_is_large_enough_is_said_at_once(shared):
    clock = Clock()
    cluster, ray = shared((2, 0, 2, 0), (8, 0, 0, 0))
    placing = Placing(cluster, 4, 0, clock)
    assert "others" in placing.waiting()
    ray.held.pop()  # the large one leaves
    clock.now += 4
    with pytest.raises(ClusterError, match="no node of the cluster has that many"):
        placing.waiting()


def test_nodes_that_go_during_a_run_have_a_minute_to_come_back(shared):
    clock = Clock()
    cluster, ray = shared((2, 0, 2, 0))
    placing = Placing(cluster, 1, 0, clock)
    clock.now += 1000
    placing.placed()
    ray.held.clear()
    clock.now += 59
    assert placing.waiting()
    clock.now += 4
    with pytest.raises(ClusterError, match="nodes have left the cluster"):
        placing.waiting()


def test_a_ray_that_does_not_tell_of_single_nodes_tells_of_all(shared):
    cluster, ray = shared((2, 0, 1, 0))
    ray._private.state, ray.available_resources = None, lambda: {"CPU": 1.0}
    assert cluster.free_room(1, 0) == 1 and cluster.free_room(2, 0) == 0
    assert cluster.describe_free() == "1 of 2 CPUs"
