"""A graph network in plain torch: one graph is one batch, and nodes without a label do not count."""

import torch
from torch import nn

import lossnav as ln


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, features, links):
        return self.last(links @ torch.relu(self.first(links @ features)))


torch.manual_seed(0)
label = torch.arange(120) % 3  # three communities, dense within and sparse between
links = nn.functional.normalize((torch.rand(120, 120) < 0.02 + 0.2 * (label[:, None] == label)).float(), p=1)
features, known = torch.randn(120, 8), label.where(torch.rand(120) < 0.5, -100)
model, loss = GraphNet(), nn.CrossEntropyLoss()  # which ignores -100
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    loss(model(features, links), known).backward()
    optimizer.step()
objective = ln.Objective(model, loss, [(features, links, known)], metrics=["token_accuracy"])
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
print(ln.report(ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 15), beta=(-1, 1, 15)))))
