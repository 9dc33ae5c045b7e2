"""A live session evaluates what is looked at, says the truth of it, and loses nothing."""

import threading
import time

import numpy as np
import pytest
import torch

import lossnav as ln
from living import SIDE, WINDOW, Page, bowl, classifier, of, rows
from lossnav.errors import OptionError, PlanMismatchError
from lossnav.explorer.live import place as grounds
from lossnav.explorer.live.start import begin
from talking import is_idle, kind

pytest_plugins = ["living"]
pytestmark = pytest.mark.usefixtures("coarse")


def test_a_window_comes_coarse_first_and_is_what_the_objective_says(started):
    objective, plane, _ = classifier()
    page = Page(started(objective, plane))
    frames = of(page.whole("window", ranges=WINDOW), "grid")
    shapes = [tuple(map(len, header["axes"])) for header, _ in frames]
    assert shapes[-1] == (SIDE, SIDE) and shapes == sorted(shapes)
    assert [header["final"] for header, _ in frames] == [False] * (len(frames) - 1) + [True]
    header, values = frames[-1]
    assert set(values) == {"loss", "loss_se", "accuracy", "status"} and (values["status"] == 1).all()
    alpha, beta = header["axes"]
    for i, j in [(0, 0), (3, 8), (4, 4), (7, 5)]:
        for name, value in objective.evaluate(plane([alpha[i], beta[j]])).items():
            assert values[name][i, j] == pytest.approx(value, rel=1e-6)


def test_what_is_known_is_not_evaluated_again(started):
    objective, plane, function = bowl()
    page = Page(started(objective, plane))
    page.whole("window", ranges=WINDOW)
    before = function.calls
    seen = page.whole("window", ranges=WINDOW)
    assert function.calls == before and len(of(seen, "grid")) == 1  # the finest, at once
    (header, _) = of(page.whole("window", ranges=[[-0.5, 0.5], [-0.5, 0.5]]), "grid")[-1]
    new = {(a, b) for a in header["axes"][0] for b in header["axes"][1]}
    old = {(a / 4, b / 4) for a in range(-4, 5) for b in range(-4, 5)}
    assert function.calls - before == len(new - old)


def test_a_window_anywhere_is_covered(started):
    objective, plane, _ = bowl()
    page = Page(started(objective, plane))
    window = [[0.013, 0.0317], [-7.3, 12.1]]
    for header, values in of(page.whole("window", ranges=window), "grid"):
        for axis, (low, high) in zip(header["axes"], window, strict=True):
            step = axis[1] - axis[0]
            assert low - step < axis[0] <= low + 1e-9 and high - 1e-9 <= axis[-1] < high + step
        a, b = np.meshgrid(*header["axes"], indexing="ij")
        done = values["status"] == 1  # a level that takes long is shown before it is whole
        np.testing.assert_allclose(values["loss"][done], (1 + a**2 + 4 * b**2 + 2 * a * b)[done])
    assert done.all()


def test_a_window_that_is_left_ends_after_the_point_under_way(started):
    objective, plane, function = bowl(0.05)
    page = Page(started(objective, plane))
    first = page.ask("window", ranges=[[2, 3], [2, 3]])
    page.until(lambda m: kind(m) == "grid")
    before = function.calls
    second = page.ask("window", ranges=[[5, 6], [5, 6]])
    seen = page.until(lambda m: kind(m) == "grid" and m[0]["window"] == second)
    assert [m for m in seen if is_idle(m) and m["id"] == first]
    assert not [m for m in of(seen, "grid") if m[0]["window"] == first]
    assert function.calls - before <= 25 + 3  # the new one's first level, and what was under way
    page.ask("stop")
    page.until(lambda m: is_idle(m) and m["id"] == second)
    before = function.calls
    time.sleep(0.3)
    assert function.calls == before


def test_a_click_is_answered_in_the_middle_of_a_window(started):
    objective, plane, _ = bowl(0.01)
    handler = started(objective, plane)
    watching, clicking = Page(handler), Page(handler)
    watching.ask("window", ranges=[[2, 3], [2, 3]])
    watching.until(lambda m: kind(m) == "progress")
    clicking.whole("point", at=[0.3, 0.4])
    assert not [m for m in list(watching.waiting.queue) if isinstance(m, dict) and is_idle(m)]


def test_two_pages_have_windows_of_their_own(started):
    objective, plane, _ = bowl(0.002)
    handler = started(objective, plane)
    pages = [Page(handler), Page(handler)]
    numbers = [page.ask("window", ranges=[[i, i + 1], [0, 1]]) for i, page in enumerate(pages)]
    for i, (page, number) in enumerate(zip(pages, numbers, strict=True)):
        seen = page.until(lambda m, n=number: is_idle(m) and m["id"] == n)
        header, values = of(seen, "grid")[-1]
        assert header["axes"][0][0] == i and (values["status"] == 1).all()


def test_nothing_is_shown_before_it_is_on_disk(started, tmp_path):
    objective, plane, _ = bowl()
    page = Page(started(objective, plane))
    number = page.ask("window", ranges=WINDOW)
    seen = page.until(lambda m: kind(m) == "grid")
    there = rows(tmp_path / "run.zarr")  # while it goes on
    header, values = seen[-1]
    for i, j in np.argwhere(values["status"] != 0):
        place = (header["axes"][0][i], header["axes"][1][j])
        assert there[place] == values["loss"][i, j]
    page.until(lambda m: is_idle(m) and m["id"] == number)
    page.whole("point", at=[0.123, -0.321])
    assert (0.123, -0.321) in rows(tmp_path / "run.zarr")


def test_a_point_says_values_classes_and_slope(started):
    objective, plane, (model, x, y) = classifier()
    page = Page(started(objective, plane))
    at = [0.4, -0.3]
    first, whole = of(page.whole("point", at=at), "point")
    params = plane(at)
    assert first["values"] == pytest.approx(objective.evaluate(params), rel=1e-6)
    assert first["classes"] is None and not first["finished"] and whole["finished"]
    with torch.no_grad():
        taken = torch.func.functional_call(model, params, (x,)).argmax(1)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (y.numpy(), taken.numpy()), 1)
    assert whole["classes"]["confusion"] == confusion.tolist()
    assert whole["classes"]["counts"] == confusion.sum(1).tolist()
    np.testing.assert_allclose(whole["classes"]["accuracy"], confusion.diagonal() / confusion.sum(1))
    h = 1e-5
    differences = [
        (objective.evaluate(plane(at + step))["loss"] - objective.evaluate(plane(at - step))["loss"]) / (2 * h)
        for step in h * np.eye(2)
    ]
    slope = whole["gradient"]
    np.testing.assert_allclose(slope["in_plane"], differences, rtol=1e-5, atol=1e-8)
    assert slope["norm"] == pytest.approx(np.hypot(slope["in_plane_norm"], slope["out_of_plane_norm"]))


def test_a_line_grows_and_is_what_the_objective_says(started):
    objective, plane, _ = bowl()
    page = Page(started(objective, plane))
    lines = of(page.whole("line", **{"from": [-1, 0], "to": [1, 0.5], "points": 11}), "line")
    last = lines[-1]
    assert last["finished"] and last["t"] == pytest.approx(np.linspace(0, 1, 11)) and last["at"][-1] == [1, 0.5]
    assert all(line["t"] == sorted(line["t"]) for line in lines)
    assert last["loss"] == pytest.approx([objective.evaluate(plane(at))["loss"] for at in last["at"]])


def test_a_ball_rolls_and_leaves_the_plane(started):
    objective, plane, _ = classifier()
    page = Page(started(objective, plane))
    balls = of(page.whole("ball", at=[0.5, 0.5], optimizer="momentum", lr=0.2, steps=30), "ball")
    joined = {name: [x for ball in balls for x in ball[name]] for name in ("steps", "at", "loss", "off_plane")}
    assert joined["steps"] == list(range(31)) and balls[-1]["why"] == "steps"
    assert [ball["finished"] for ball in balls] == [False] * (len(balls) - 1) + [True]
    assert joined["at"][0] == pytest.approx([0.5, 0.5]) and joined["off_plane"][0] == pytest.approx(0, abs=1e-6)
    assert joined["loss"][0] == pytest.approx(objective.evaluate(plane([0.5, 0.5]))["loss"])
    assert joined["loss"][-1] < joined["loss"][0] and joined["off_plane"][-1] > 0.01
    shadows = [x for ball in balls for x in ball["projected_loss"]]
    assert shadows[-1] == pytest.approx(objective.evaluate(plane(joined["at"][-1]))["loss"], rel=1e-6)


def test_a_ball_that_is_stopped_says_so(started):
    objective, plane, _ = bowl(0.01)
    page = Page(started(objective, plane))
    number = page.ask("ball", at=[0.5, 0.5], steps=10_000, lr=1e-3)
    page.until(lambda m: kind(m) == "ball")
    page.ask("stop", id=number)
    assert page.until(lambda m: kind(m) == "ball" and m["finished"])[-1]["why"] == "stopped"


def test_a_ball_that_flies_off_says_so(started):
    objective, plane, _ = bowl()
    page = Page(started(objective, plane))
    flown = of(page.whole("ball", at=[0.5, 0.5], steps=400, lr=1e6), "ball")
    losses, steps = ([x for ball in flown for x in ball[name]] for name in ("loss", "steps"))  # the last may be empty
    assert flown[-1]["why"] == "diverged" and losses[-1] == np.inf
    assert steps[-1] < 400


def test_a_place_has_its_centre_where_one_was(started):
    objective, plane, _ = classifier()
    page = Page(started(objective, plane))
    seen = page.whole("place", center=[0.5, -0.25], axes={"kind": "keep"})
    (said,) = of(seen, "session")
    assert said["place"] == 1 and [p["number"] for p in said["places"]] == [0, 1]
    assert said["places"][1]["center"] == [0.5, -0.25]
    assert said["center"]["loss"] == pytest.approx(objective.evaluate(plane([0.5, -0.25]))["loss"])
    header, values = of(page.whole("window", ranges=WINDOW), "grid")[-1]
    i, j = header["axes"][0].index(-0.5), header["axes"][1].index(0.25)
    assert values["loss"][i, j] == pytest.approx(objective.evaluate(objective.params)["loss"], rel=1e-6)
    page.ask("go", place=0)
    assert page.receive()["place"] == 0


@pytest.mark.parametrize("kind_", ["random", "gradient", "hessian"])
def test_new_axes_are_what_they_are_called(started, kind_):
    objective, plane, _ = classifier()
    handler = started(objective, plane)
    page = Page(handler)
    (said,) = of(page.whole("place", center=[0.25, 0.0], axes={"kind": kind_, "seed": 3}), "session")
    there = objective.at(plane([0.25, 0.0]))
    chart = handler.live_places[1].chart
    if kind_ == "hessian":
        pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(there), which="both")
        found = [pair["value"] for pair in said["axes_info"]["eigenvalues"]]
        assert found == pytest.approx(pairs.values[::-1], rel=1e-4)
    expected = {
        "random": lambda: ln.directions.random(there, n=2, seed=3)[0],
        "gradient": lambda: ln.directions.gradient(there),
        "hessian": lambda: pairs.vectors[1],
    }[kind_]()
    assert abs(ln.params.cosine(chart.directions[0], expected)) == pytest.approx(1, abs=1e-4)
    assert said["axes_info"]["kind"] == kind_


def test_the_way_to_a_checkpoint_ends_there(started, tmp_path):
    objective, plane, _ = classifier()
    other = {name: tensor + 0.5 for name, tensor in objective.params.items()}
    ln.checkpoints.save(other, tmp_path / "other.safetensors")
    page = Page(started(objective, plane))
    asked = {"kind": "checkpoint", "checkpoint": str(tmp_path / "other.safetensors"), "seed": 1}
    (said,) = of(page.whole("place", center=None, axes=asked), "session")
    assert said["axes"][0]["range"] == [-0.5, 1.5]
    values = of(page.whole("point", at=[1.0, 0.0]), "point")[0]["values"]
    assert values["loss"] == pytest.approx(objective.evaluate(other)["loss"], rel=1e-6)


def test_a_request_opens_no_pickle(started, tmp_path):
    objective, plane, _ = classifier()
    torch.save({"w": torch.zeros(1)}, tmp_path / "model.pt")
    page = Page(started(objective, plane))
    page.ask("place", axes={"kind": "checkpoint", "checkpoint": str(tmp_path / "model.pt")})
    error = page.until(lambda m: kind(m) == "error")[-1]
    assert "safetensors" in error["said"]


def test_a_session_is_gone_on_with(started, tmp_path):
    objective, plane, _ = bowl()
    handler = started(objective, plane)
    page = Page(handler)
    page.whole("window", ranges=WINDOW)
    page.whole("place", center=[0.5, 0.5], axes={"kind": "random", "seed": 2})
    page.whole("window", ranges=WINDOW)
    page.ask("bookmark", name="here", view={"place": 1})
    handler.close()
    again, plane, function = bowl()
    handler = started(again, plane)
    assert function.calls == 1
    assert [place.words for place in handler.session.places] == ["start", "random axes, seed 2"]
    assert handler.session.bookmarks == [{"name": "here", "view": {"place": 1}}]
    page = Page(handler)
    before = function.calls
    for number in (0, 1):
        page.ask("go", place=number)
        page.whole("window", ranges=WINDOW)
    assert function.calls == before
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.attrs["sampler"]["kind"] == "Explorer" and len(surface["point"]) == SIDE**2


def test_another_objective_is_not_mixed_in(started, tmp_path):
    objective, plane, _ = bowl()
    started(objective, plane).close()
    moved = ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(3, dtype=torch.float64)})
    with pytest.raises(PlanMismatchError, match="fingerprint"):
        begin(moved, ln.Plane(moved.params, *plane.directions), store=tmp_path / "run.zarr")


def test_a_surface_that_is_there_is_known_ground(started, tmp_path):
    objective, plane, function = bowl()
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, SIDE), beta=(-1, 1, SIDE)), store=tmp_path / "run.zarr")
    before = function.calls
    handler = started(objective, plane)
    page = Page(handler)
    page.whole("window", ranges=WINDOW)
    assert function.calls == before + 1  # to see whether it draws random numbers
    page.whole("window", ranges=[[0, 0.5], [0, 0.5]])
    handler.close()
    assert ln.open(tmp_path / "run.zarr").sizes == {"alpha": SIDE, "beta": SIDE}
    kept = ln.open(tmp_path / "run.explore" / "place-0000.zarr")
    assert 0 < kept.sizes["point"] < SIDE**2
    with ln.explore(tmp_path / "run.zarr", block=False) as stored:
        assert len(stored.handler.session.place(0).known) == SIDE**2 + kept.sizes["point"]


def test_one_store_has_one_explorer(started, tmp_path):
    objective, plane, _ = bowl()
    started(objective, plane)
    with pytest.raises(OptionError, match="Another explorer"):
        begin(objective, plane, store=tmp_path / "run.zarr")


def test_failing_points_are_said_and_kept(started, tmp_path):
    def cliff(p):
        x = p["x"]
        if x[0] > 0.75:
            raise RuntimeError("over the edge")
        return 1 / (x[0] + 0.75).clamp(min=0) + x[1] ** 2

    objective = ln.Objective.from_function(cliff, {"x": torch.zeros(2, dtype=torch.float64)})
    e = torch.eye(2, dtype=torch.float64)
    handler = started(objective, ln.Plane(objective.params, {"x": e[0]}, {"x": e[1]}))
    page = Page(handler)
    header, values = of(page.whole("window", ranges=WINDOW), "grid")[-1]
    alpha = np.array(header["axes"][0])
    assert (values["status"][alpha > 0.75] == 3).all() and (values["status"][alpha <= -0.75] == 2).all()
    assert np.isposinf(values["loss"][alpha <= -0.75]).all() and np.isnan(values["loss"][alpha > 0.75]).all()
    page.ask("point", at=[0.9, 0.0])
    assert page.until(lambda m: kind(m) == "error")[-1]["said"] == "over the edge"
    handler.close()
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.lossnav.counts["failed"] > 0 and surface.lossnav.counts["non-finite"] > 0


def test_the_world_is_left_as_it_was(started):
    objective, plane, (model, *_) = classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    page = Page(started(objective, plane))
    page.whole("window", ranges=WINDOW)
    page.whole("ball", at=[0.1, 0.1], steps=5, batch=7, seed=3)
    page.whole("place", center=[0.1, 0.1], axes={"kind": "hessian"})
    page.handler.close()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training is False and not any(p.grad is not None for p in model.parameters())


def test_whoever_called_may_go_on_computing(started):
    """A model is called by putting weights into it: the worker has one of its own. Nor does it touch the generators."""
    objective, plane, _ = classifier()
    alone = objective.evaluate(plane([0.3, 0.3]))
    torch.manual_seed(7)
    drawn = torch.rand(300)
    page = Page(started(objective, plane))
    number = page.ask("ball", at=[0.1, 0.1], steps=10_000, lr=1e-4)
    page.until(lambda m: kind(m) == "ball")
    torch.manual_seed(7)
    for i in range(300):
        assert objective.evaluate(plane([0.3, 0.3])) == alone
        assert torch.rand(1) == drawn[i]
    page.ask("stop", id=number)


def test_the_end_is_orderly(started, tmp_path):
    before = {*threading.enumerate()}  # another test's store may still be held
    objective, plane, _ = bowl(0.01)
    handler = started(objective, plane)
    page = Page(handler)
    page.ask("window", ranges=[[2, 3], [2, 3]])
    page.until(lambda m: kind(m) == "grid")
    handler.close()
    for thread in {*threading.enumerate()} - before:  # what was told to end is waited for
        if thread.name.startswith("lossnav"):
            thread.join(60)
            assert not thread.is_alive(), thread
    assert not (tmp_path / "run.zarr" / "journal").exists()
    with pytest.raises(OptionError, match="ending"):
        page.ask("window", ranges=WINDOW)


def test_the_kernel_is_compiled_beside_other_work(started, digits_objective, monkeypatch, tmp_path):
    from lossnav.acceleration.compiler import can_compile

    if not can_compile():
        pytest.skip("no C++ compiler is there")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    waiting, compiled = threading.Event(), grounds._compile_all

    def compile_late(kernels):
        waiting.wait(60)
        compiled(kernels)

    monkeypatch.setattr(grounds, "_compile_all", compile_late)
    plane = ln.Plane(digits_objective.params, *ln.directions.random(digits_objective, n=2, seed=0))
    handler = started(digits_objective, plane)
    page, ground = Page(handler), handler.live_places[0]
    page.whole("window", ranges=WINDOW)
    assert "batches of" in ground.engine.describe()["plan"]  # a faster way, without the kernel
    waiting.set()
    ground._beside.join()
    header, values = of(page.whole("window", ranges=[[0.1, 0.3], [0.1, 0.3]]), "grid")[-1]
    said = ground.engine.describe()
    assert "fused kernel" in said["plan"] and said["plan_error"] < 1e-5
    at = [header["axes"][0][1], header["axes"][1][2]]
    assert values["loss"][1, 2] == pytest.approx(digits_objective.evaluate(plane(at))["loss"], rel=1e-5)
