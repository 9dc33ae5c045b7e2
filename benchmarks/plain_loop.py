"""Evaluate against the loop a careful person would write, on the notebook's network.

The plain loop: `functional_call` and `inference_mode`, the whole data set as one batch, data resident. Same points,
same weights, values checked.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call

import lossnav as ln
from benchmarks.common import machine, options, paired, ratio, report


def main() -> None:
    chosen = options(__doc__ or "")
    side, rounds = (3, 3) if chosen.quick else (7, 7)
    data = ln.zoo.digits()
    x, y = (torch.cat([part] * 3)[:1000] for part in data.test)  # 1,000 images, the notebook's number
    model = ln.zoo.notebook_cnn(seed=0)
    ln.zoo.train(model, data, passes=5, batch_size=25, progress=False)
    objective = ln.Objective(model.eval(), "cross_entropy", (x, y))
    d1, d2 = ln.directions.random(objective, n=2, seed=0)
    plane, grid = ln.Plane(objective.params, d1, d2), ln.Grid(alpha=(-1, 1, side), beta=(-1, 1, side))

    plain_model = ln.zoo.NotebookCNN().eval()  # in torch's default layout
    center = {name: tensor.contiguous() for name, tensor in objective.params.items()}
    losses: dict[str, list[float]] = {}

    def plain() -> None:
        found = []
        with torch.inference_mode():
            for alpha, beta in grid.points():
                theta = {name: center[name] + alpha * d1[name] + beta * d2[name] for name in center}
                found.append(float(F.cross_entropy(functional_call(plain_model, theta, (x,)), y)))
        losses["plain"] = found

    def ours() -> None:
        surface = ln.evaluate(objective, plane, grid, check=False, progress=False)
        losses["lossnav"] = surface["loss"].values.reshape(-1).tolist()

    seconds = paired({"plain": plain, "lossnav": ours}, rounds)
    pairs = zip(losses["plain"], losses["lossnav"], strict=True)
    result = {
        "points a round": grid.total,
        "ms a point: plain loop": 1e3 * min(seconds["plain"]) / grid.total,
        "ms a point: lossnav": 1e3 * min(seconds["lossnav"]) / grid.total,
        "plain loop / lossnav": ratio(seconds, "plain", "lossnav"),
        "largest relative difference": max(abs(a - b) / abs(a) for a, b in pairs),
        "machine": machine(),
    }
    report(result, chosen.json)


if __name__ == "__main__":
    main()
