"""One network early and late in its training, on one scale."""

import sys

import torch.nn.functional as F

import lossnav as ln

size = int(sys.argv[1]) if len(sys.argv) > 1 else 25  # points along each axis

data = ln.zoo.digits()
grid = ln.Grid(alpha=(-1, 1, size), beta=(-1, 1, size))
surfaces = {}
for passes in (3, 30):
    model = ln.zoo.notebook_cnn(seed=0)
    ln.zoo.train(model, data, passes=passes, batch_size=25, order="shuffled")
    objective = ln.Objective(model.eval(), F.cross_entropy, data.test, metrics=["accuracy"])
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize="filter", seed=0))
    surfaces[f"after {passes} passes"] = ln.evaluate(objective, plane, grid)

# the same directions' seed, ranges, levels and colours: what differs is the network
both, labels = list(surfaces.values()), list(surfaces)
ln.plot.write("contour", both, "compare.png", labels=labels, overwrite=True)
ln.plot.write("surface", both, "compare.html", labels=labels, log=True, overwrite=True)  # turn one, both turn
for label, surface in surfaces.items():
    print(f"{label}: loss {surface.lossnav.center['loss']:.3f}, accuracy {surface.lossnav.center['accuracy']:.3f}")
print("open compare.png, compare.html")
