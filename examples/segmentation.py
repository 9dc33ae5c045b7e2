"""A masked segmentation: pixels that nobody labelled are 255 and do not count."""

import torch
from torch import nn

import lossnav as ln

torch.manual_seed(0)
images = torch.randn(24, 1, 16, 16)
images = nn.functional.avg_pool2d(images, 5, 1, 2) * 5  # smooth, so that a pixel's neighbours tell of it
masks = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
masks[torch.rand(masks.shape) < 0.2] = 255
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
loss = nn.CrossEntropyLoss(ignore_index=255)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    loss(model(images), masks).backward()
    optimizer.step()
objective = ln.Objective(model.eval(), loss, (images, masks), metrics=["token_accuracy"])
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 15), beta=(-1, 1, 15)))
print(surface.lossnav.summary())
ln.plot.write("surface", surface, "segmentation.png", variable="token_accuracy", overwrite=True)
