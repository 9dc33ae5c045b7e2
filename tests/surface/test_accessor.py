"""Every dataset has `surface.lossnav`, whichever of the two packages is imported first."""

import subprocess
import sys

import pytest

OWN = (
    "xr.Dataset({'loss': ('alpha', [1.0]), 'status': ('alpha', [1])}, {'alpha': [0.0]}, {'chart': {'dims': ['alpha']}})"
)


@pytest.mark.parametrize(
    "first",
    [
        "import xarray as xr\nimport lossnav.surface",
        "import lossnav.surface\nimport xarray as xr\nfrom lossnav.surface import variables\nvariables.xr.Dataset",
        "from lossnav.surface import variables\nimport xarray as xr\nimport lossnav.surface.groups as g\ng.xr.Variable",
    ],
)
def test_the_accessor_is_there(first):
    code = f"{first}\nprint({OWN}.lossnav.dims)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["('alpha',)"], done.stderr
