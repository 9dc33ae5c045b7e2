"""Interactive pages in a real browser: they draw, with nothing from the network and no error."""

import shutil
import subprocess

import numpy as np
import pytest

import lossnav as ln
from conftest import made
from lossnav.plots.page import Section, write_page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


def dump(path, profile):
    """The page's document after its scripts have run, and what the browser said."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--virtual-time-budget=15000", "--enable-logging=stderr", "--v=0", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line and ("Error" in line or "rror:" in line)]
    return done.stdout, errors


@pytest.fixture
def bowl():
    values = 0.1 + np.add.outer(np.linspace(-1, 1, 9) ** 2, np.linspace(-1, 1, 9) ** 2)
    values[0, 0] = np.nan
    return made(values)


@pytest.mark.parametrize(
    ("kind", "drawn"), [("surface", "gl-container"), ("contour", "contourlayer"), ("heatmap", "hm")]
)
def test_a_written_page_draws(bowl, tmp_path, kind, drawn):
    path = ln.plot.write(kind, bowl, tmp_path / "plot.html", log=True)
    document, errors = dump(path, tmp_path / "profile")
    assert not errors
    assert drawn in document
    assert "1 not finite" in document


def test_a_page_of_several_figures_draws_them_all(bowl, tmp_path):
    bowl.attrs |= {"sampler": {"axes": {"alpha": [-1, 2, 9]}}, "seconds": 1.0, "points_per_second": 81.0}
    bowl.attrs["objective"] |= {"dtype": "float32", "device": "cpu", "bn": "frozen", "fingerprint": "0" * 16}
    for recipe in bowl.attrs["chart"]["directions"]:
        recipe["norm"] = 1.0
    section = Section("Both", "Two figures.", [ln.plot.surface(bowl), ln.plot.contour(bowl)], [])
    numbers = {"loss <at> the centre": "0.1"}
    path = write_page(
        tmp_path / "index.html", title="T", lead="L", numbers=numbers, sections=[section], surfaces={"b": bowl}
    )
    document, errors = dump(path, tmp_path / "profile")
    assert not errors
    assert "gl-container" in document
    assert "contourlayer" in document
    assert "loss &lt;at&gt; the centre" in document


@pytest.mark.slow
def test_compared_surfaces_turn_together(bowl, tmp_path):
    path = ln.plot.write("surface", [bowl, bowl, bowl], tmp_path / "plot.html")
    eyes = "['scene', 'scene2', 'scene3'].map(name => plot.layout[name].camera.eye.x)"
    turn = f"""<script>setTimeout(() => {{
        const plot = document.querySelector('.js-plotly-plot');
        Plotly.relayout(plot, {{'scene2.camera': {{eye: {{x: 2.5, y: 0.5, z: 1}}}}}})
            .then(() => setTimeout(() => {{ document.title = 'eyes: ' + JSON.stringify({eyes}); }}, 1000));
    }}, 3000);</script></body>"""
    path.write_text(path.read_text().replace("</body>", turn))
    document, errors = dump(path, tmp_path / "profile")
    assert not errors
    assert "eyes: [2.5,2.5,2.5]" in document


def test_compared_planes_draw_in_one_frame(bowl, tmp_path):
    path = ln.plot.write("contour", [bowl, bowl, bowl, bowl, bowl], tmp_path / "plot.html", labels=list("abcde"))
    document, errors = dump(path, tmp_path / "profile")
    assert not errors
    assert document.count('class="contourlayer mlayer"') >= 5
    assert "a: 1 not finite" not in document  # said once for all
    assert "left out of 81 points: 1 not finite" in document
