"""The tree of minima: the minimum spanning tree of the passes, held against other ways to compute it."""

import itertools
import json

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from lossnav.errors import StoreError
from lossnav.surface.minima_tree import MinimaTree, open_tree


def drawn(seed, count=None):
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 12)) if count is None else count
    loss = random.uniform(0, 1, n)
    passes = np.maximum.outer(loss, loss) + random.exponential(1, (n, n))
    passes = np.triu(passes, 1) + np.triu(passes, 1).T + np.diag(loss)
    barrier = passes - np.maximum.outer(loss, loss)
    error = random.uniform(0.01, 0.6, (n, n))
    error = np.triu(error, 1) + np.triu(error, 1).T
    where = random.uniform(0, 1, (n, n))
    return MinimaTree(
        names=tuple(f"m{i}" for i in range(n)), loss=loss, loss_error=random.uniform(0, 0.1, n),
        pass_loss=passes, pass_error=error, barrier=barrier, barrier_error=error, barrier_low=barrier - 2 * error,
        where=where, level=0.95, aligned=True, path="line", seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_merges_are_those_of_single_linkage(seed):
    tree = drawn(seed)
    distances = tree.pass_loss.copy()
    np.fill_diagonal(distances, 0)
    expected = linkage(squareform(distances), "single")[:, 2]
    np.testing.assert_array_equal([merge.height for merge in tree.merges], expected)
    assert sorted(tree.merges[-1].minima) == list(range(len(tree.names)))
    assert all(tree.pass_loss[edge] == merge.height for edge, merge in zip(tree.edges, tree.merges, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_the_lowest_pass_is_the_least_maximum_over_all_ways(seed):
    tree = drawn(seed, 6)
    for i, j in itertools.combinations(range(6), 2):
        others = [k for k in range(6) if k not in (i, j)]
        ways = [(i, *way, j) for m in range(5) for way in itertools.permutations(others, m)]
        expected = min(max(tree.pass_loss[a, b] for a, b in itertools.pairwise(way)) for way in ways)
        assert tree.lowest_pass(i, j) == tree.lowest_pass(j, i) == expected
    assert tree.lowest_pass(2, 2) == tree.loss[2]


@pytest.mark.parametrize("seed", range(20))
def test_basins_are_components_without_a_shown_barrier(seed):
    tree = drawn(seed)
    count, label = connected_components(tree.barrier_low <= 0)
    assert len(tree.leaves) == count
    assert all(len({label[i] for i in leaf}) == 1 for leaf in tree.leaves)
    assert sorted(itertools.chain.from_iterable(tree.leaves)) == list(range(len(tree.names)))


def test_an_infinite_pass_connects_nothing_and_is_no_error():
    tree = drawn(1, 4)
    tree.pass_loss[2, [0, 1, 3]] = tree.pass_loss[[0, 1, 3], 2] = np.nan
    tree.barrier_low[2, :] = tree.barrier_low[:, 2] = np.nan
    assert (2,) in tree.leaves
    assert np.isnan(tree.merges[-1].height) and not np.isnan(tree.merges[-2].height)
    assert "m2" in str(tree)


def test_without_errors_any_barrier_counts_and_is_said_to_be_unknown():
    tree = drawn(3, 3)
    tree.barrier_low[:], tree.barrier_error[:] = np.nan, np.nan
    assert len(tree.leaves) == 3
    assert "error unknown" in str(tree)


def test_what_is_printed_says_upper_bound():
    said = str(drawn(5, 4))
    assert "4 minima" in said and "upper bound" in said and "<=" in said


def test_a_saved_tree_is_the_same(tmp_path):
    tree = drawn(7)
    tree.barrier_low[0, 1] = np.nan
    tree.save(tmp_path / "tree.json")
    again = open_tree(tmp_path / "tree.json")
    assert str(again) == str(tree)
    for name in ("loss", "pass_loss", "barrier_low", "where"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda held: held.pop("loss"),
        lambda held: held.update(format="other"),
        lambda held: held.update(names="ab"),
        lambda held: held.update(names=[1, 2]),
        lambda held: held.update(pass_loss=[[1.0]]),
        lambda held: held.update(barrier=[["x"] * len(held["names"])] * len(held["names"])),
        lambda held: held.update(aligned=3),
        lambda held: held.update(level={}),
    ],
)
def test_a_file_that_is_no_whole_tree_is_one_sentence(tmp_path, spoil):
    tree = drawn(8)
    tree.save(tmp_path / "tree.json")
    held = json.loads((tmp_path / "tree.json").read_text())
    spoil(held)
    (tmp_path / "tree.json").write_text(json.dumps(held))
    with pytest.raises(StoreError, match="is not a whole tree"):
        open_tree(tmp_path / "tree.json")


def test_a_file_that_is_no_json_is_one_sentence(tmp_path):
    (tmp_path / "tree.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="cannot be read"):
        open_tree(tmp_path / "tree.json")
    with pytest.raises(StoreError, match="cannot be read"):
        open_tree(tmp_path / "none.json")
