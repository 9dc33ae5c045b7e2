"""CTC: signals of different lengths, and targets that lie one after the other."""

import torch
from torch import nn

import lossnav as ln


def read(model, batch):
    x, lengths, targets, sizes = batch
    scores = model["head"](model["rnn"](x)[0]).log_softmax(2)  # (N, T, classes), class 0 is the blank
    return nn.functional.ctc_loss(scores.transpose(0, 1), targets, lengths, sizes), targets


torch.manual_seed(0)
sizes = torch.tensor([3, 5, 4, 2, 5, 3, 4, 4])
words = [torch.randint(1, 6, (n,)) for n in sizes]
signals = [nn.functional.one_hot(word.repeat_interleave(3), 6) for word in words]
x = nn.utils.rnn.pad_sequence(signals, batch_first=True) + 0.3 * torch.randn(8, 15, 6)
batch = (x, 3 * sizes, torch.cat(words), sizes)
model = nn.ModuleDict({"rnn": nn.GRU(6, 16, batch_first=True), "head": nn.Linear(16, 6)})
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(100):
    optimizer.zero_grad()
    read(model, batch)[0].backward()
    optimizer.step()
objective = ln.Objective(model, None, [batch], forward=read)
line = ln.Line(objective.params, *ln.directions.random(objective))
print(ln.evaluate(objective, line, ln.Grid(alpha="auto")).lossnav.summary())
