"""The shortest way from a trained network to its loss surface."""

import sys
from pathlib import Path

import torch.nn.functional as F

import lossnav as ln

# --- your own model and data take the place of these three lines
data = ln.zoo.digits()
model = ln.zoo.notebook_cnn(seed=0)
ln.zoo.train(model, data, passes=20, batch_size=25, order="shuffled")
# ---

size = int(sys.argv[1]) if len(sys.argv) > 1 else 25  # points along each axis

objective = ln.Objective(model.eval(), F.cross_entropy, data.test, metrics=["accuracy"])
d1, d2 = ln.directions.random(objective, n=2, normalize="filter", seed=0)
plane = ln.Plane(objective.params, d1, d2)
grid = ln.Grid(alpha=(-1, 1, size), beta=(-1, 1, size))
surface = ln.evaluate(objective, plane, grid, store="first_surface.zarr", overwrite=True)

print(surface)
print(surface.lossnav.summary())
ln.plot.write("contour", surface, "first_surface.png", overwrite=True)
ln.plot.write("surface", surface, "first_surface.html", log=True, overwrite=True)
print("open", Path("first_surface.html").resolve())
