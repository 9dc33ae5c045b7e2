"""Laws of tiles: every point comes to an end exactly once, and tiles are cut where one process would cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossnav.engines.tiles import DEATHS, TILE_SECONDS, Tiles


@given(count=st.integers(0, 60), unit=st.integers(1, 7), size=st.none() | st.integers(1, 20), data=st.data())
def test_every_point_is_done_once_whatever_dies(count, unit, size, data):
    tiles, done, lost = Tiles(count, unit, size), [], []
    poison = data.draw(st.sets(st.integers(0, max(0, count - 1)), max_size=3)) & set(range(count))
    while tiles:
        held = [tiles.take(workers=2)]
        if tiles and data.draw(st.booleans()):
            held.append(tiles.take(workers=2))
        if poison & set(held[0]):
            tiles.put_back(held[1:])
            lost += tiles.charge(held[0])
        else:
            tiles.learn(held[0], 0.01)
            done += held[0]
            tiles.put_back(held[1:])
    assert sorted(done) == sorted(set(range(count)) - poison)
    assert sorted(lost) == sorted(poison)


@given(count=st.integers(1, 60), unit=st.integers(1, 7), size=st.none() | st.integers(1, 20))
def test_tiles_are_cut_where_one_process_would_cut(count, unit, size):
    tiles = Tiles(count, unit, size, seconds=0.01)
    while tiles:
        tile = tiles.take(workers=2)
        assert tile[0] % unit == 0
        assert len(tile) % unit == 0 or tile[-1] == count - 1
        assert tile == tuple(range(tile[0], tile[-1] + 1))


def test_a_tile_takes_half_a_second_and_leaves_something_for_the_others():
    tiles = Tiles(1000)
    first = tiles.take(workers=4)
    assert len(first) == 1
    tiles.learn(first, 0.01)
    assert len(tiles.take(workers=4)) == pytest.approx(TILE_SECONDS / 0.01)
    tiles.learn((0,), 1e-6)
    assert len(tiles.take(workers=4)) <= 1000 / 8
    tiles.learn((0,), 60.0)
    assert len(tiles.take(workers=4)) == 1


def test_who_was_in_a_deadly_tile_goes_alone():
    tiles = Tiles(6, size=3)
    assert tiles.charge(tiles.take(1)) == []
    assert [tiles.take(1) for _ in range(4)] == [(0,), (1,), (2,), (3, 4, 5)]
    assert DEATHS == 3
    assert tiles.charge((1,)) == []
    assert tiles.charge(tiles.take(1)) == [1]
    assert not tiles
