"""A surface for other programs: a table, ParaView, Blender; and a film that turns it."""

import sys
from pathlib import Path

import torch.nn.functional as F

import lossnav as ln

size = int(sys.argv[1]) if len(sys.argv) > 1 else 25  # points along each axis

data = ln.zoo.digits()
model = ln.zoo.notebook_cnn(seed=0)
ln.zoo.train(model, data, passes=20, batch_size=25, order="shuffled")
objective = ln.Objective(model.eval(), F.cross_entropy, data.test, metrics=["accuracy"])
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize="filter", seed=0))
surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, size), beta=(-1, 1, size)))

for path in (
    "surface.csv",  # pandas, R, a spreadsheet: a row a point
    "surface.json",  # everything, attributes too
    "surface.vti",  # ParaView: all variables as an image
):
    ln.export(surface, path, overwrite=True)
for path in (
    "surface.vtp",  # ParaView: a mesh with z = log10 of the loss
    "surface.glb",  # Blender, the web, a slide that turns: a coloured mesh
    "surface.obj",  # everything else
):
    ln.export(surface, path, log=True, overwrite=True)
ln.plot.animate(surface, "surface.gif", log=True, overwrite=True)
print("open", ", ".join(sorted(path.name for path in Path().glob("surface.*"))))
