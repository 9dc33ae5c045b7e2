"""The page docs/tested-models.md, made of the table of cases; `python tests/real_models/real_table.py` writes it."""

from __future__ import annotations

from pathlib import Path

import real_adapters
import real_language
import real_losses
import real_networks
import real_structures
import real_vision
from real_case import ALPHAS, TABLE, Entry

PAGE = Path(__file__).parents[2] / "docs" / "tested-models.md"
MODULES = (real_language, real_vision, real_adapters, real_networks, real_losses, real_structures)

HEAD = """# Models that are tested

<!-- Written by tests/real_models/real_table.py; do not edit. -->

{count} models, losses and kinds of batches are built from configuration, small and with random weights, and evaluated
at the centre and at {displaced} along a random filter-normalised direction (`tests/real_models/`). For each of them

- **the loss**, by the plain path and by the default plan (for some by `plan="tuned"` too), is compared with a loop
  in plain torch, written by hand from the definition of the loss, over a deep copy of the model with the displaced
  weights loaded. The tolerance is 1e-6 of the loss, or four times the difference of float32 and float64 in plain torch;
- **the accuracy**, if there are classes, is compared with a count by hand;
- **the gradient** at the centre, if the loss has one, is compared with plain autograd through that loop;
- **the user's objects** must be unchanged, bit for bit: weights, buffers, modes, `.grad`, `requires_grad`, hooks, the
  data, the loss object, and the random state of torch, NumPy and Python.

A plan may fall back with a warning only if float32 is not exact enough to decide. Cases that need a package
which is not installed are skipped with a reason. `python -m pytest tests/real_models -m slow -n 2` runs
them in a few minutes.
"""

COLUMNS = "| case | model | loss | data | needs |\n|---|---|---|---|---|\n"


def page() -> str:
    """The text of the page."""
    displaced = f"{', '.join(map(str, ALPHAS[1:-1]))} and {ALPHAS[-1]}"
    parts = [HEAD.format(count=len(TABLE), displaced=displaced)]
    for family in dict.fromkeys(entry.family for entry in TABLE.values()):
        parts.append(f"\n## {family[0].upper()}{family[1:]}\n\n{COLUMNS}")
        parts += [_row(entry) for entry in TABLE.values() if entry.family == family]
    return "".join(parts)


def _row(entry: Entry) -> str:
    cells = (entry.name, entry.model, entry.loss, entry.batches, ", ".join(entry.needs.split()))
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
