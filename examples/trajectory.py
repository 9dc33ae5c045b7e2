"""Where training went: recorded, projected on its principal plane, and what that plane leaves out."""

import sys

import torch
import torch.nn.functional as F

import lossnav as ln

size = int(sys.argv[1]) if len(sys.argv) > 1 else 41  # points along each axis

# --- your own model, data and loop take the place of these lines; the loop needs one line more
data = ln.zoo.digits()
model = ln.zoo.notebook_cnn(seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
order = torch.Generator().manual_seed(0)
with ln.Trajectory(model, store="digits.trajectory", every=2, overwrite=True) as trajectory:
    for epoch in range(10):
        for chosen in torch.split(torch.randperm(len(data.train[0]), generator=order), 50):
            x, y = (part[chosen] for part in data.train)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            trajectory.step(epoch=epoch, loss=loss)
# ---

components = ln.directions.pca(trajectory)
print(components)

objective = ln.Objective(model.eval(), F.cross_entropy, data.test, metrics=["accuracy"])
plane = ln.Plane(objective.params, *components)
path = ln.project(trajectory, plane)
grid = ln.Grid.around({dim: path[dim] for dim in plane.dims}, size)
surface = ln.evaluate(objective, plane, grid, store="trajectory.zarr", overwrite=True)
path = ln.evaluate_trajectory(objective, plane, trajectory, store="trajectory.zarr")

ln.plot.write("contour", surface, "trajectory-contour.png", trajectory=path, overwrite=True)
ln.plot.write("surface", surface, "trajectory-surface.png", trajectory=path, log=True, overwrite=True)
ln.plot.write("surface", surface, "trajectory-surface.html", trajectory=path, log=True, overwrite=True)
