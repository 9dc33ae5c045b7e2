"""The request "ball": start an optimiser at a point of the chart and follow its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import BALL, Request, declare
from lossnav.explorer.server.wire import EVERY, LIMITS

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import Task

OPTIMIZERS = ("sgd", "momentum", "adam")


@declare("ball")
class OptimizerRequest(Request):
    """Start an optimiser at a point; each step uses `batch` samples, drawn by `seed`, or all of them."""

    rank: ClassVar[int | None] = BALL

    at: NDArray[np.float64] = fields.coordinates()
    optimizer: str = fields.word(OPTIMIZERS, "sgd")
    lr: float = fields.number(1e-12, 1e6, 0.1)
    steps: int = fields.whole(1, LIMITS["ball"], 200)
    batch: int | None = fields.whole(1, 2**31, optional=True)
    seed: int = fields.whole(0, fields.LARGEST_SEED, 0)

    def work(self, task: Task) -> Iterator[None]:
        """Send the steps in small groups; the loss at the projection on the chart is stored like that of any point."""
        from lossnav.explorer.live import optimizer_path

        live_place, why = task.live_place, "stopped"
        task.total, told = self.steps, 0.0
        waiting: list[tuple[Any, float]] = []
        options: dict[str, Any] = {"lr": self.lr, "steps": self.steps, "batch": self.batch, "seed": self.seed}
        try:
            for step in optimizer_path.roll(live_place.objective, live_place.chart, self.at, self.optimizer, **options):
                projected = float("nan")
                if np.isfinite(step.at).all():
                    projected = live_place.measure([step.at])[0].values.get("loss", projected)
                waiting.append((step, projected))
                task.done = step.number
                why = "stopped" if np.isfinite(step.loss) else "diverged"
                if step.number == self.steps:
                    why = "steps"
                if time.monotonic() - told > EVERY:
                    live_place.flush()
                    told = time.monotonic()
                    if step.number < self.steps:
                        task.client.send(self._message(waiting, None))
                        waiting = []
                yield
        except Exception:
            why = "failed"  # the error itself follows
            raise
        finally:
            live_place.flush()
            task.client.send(self._message(waiting, why))

    def _message(self, steps: list[tuple[Any, float]], why: str | None) -> dict[str, Any]:
        return {
            "type": "ball",
            "id": self.id,
            "steps": [step.number for step, _ in steps],
            "at": [step.at.tolist() for step, _ in steps],
            "loss": [step.loss for step, _ in steps],
            "projected_loss": [projected for _, projected in steps],
            "off_plane": [step.off for step, _ in steps],
            "finished": why is not None,
            "why": why,
        }
