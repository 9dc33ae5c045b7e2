"""What an objective says about itself: its description, its fingerprint, and facts about its samples."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.objective import fingerprint, selection
from lossnav.objective.predictions import words_of
from lossnav.objective.repeats import Repeats

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective


def describe(objective: Objective) -> dict[str, Any]:
    """Describe an objective in values that JSON can hold; docs/schema.md lists the keys."""
    params, held, batches, layers = objective.params, objective._held, objective.batches, objective._layers
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in params.values())
    return {
        "model": objective.name,
        "loss": objective._loss.name,
        "metrics": list(objective.metrics),
        "metric_words": words_of(objective.metrics),
        "parameters": sum(tensor.numel() for tensor in params.values()),
        "parameters_held": sum(tensor.numel() for tensor in held.values()),
        "moves": selection.describe(objective),
        "held": list(held),
        "layers": None if layers is None else dict(layers),
        "buffers": None if layers is None else len(objective._buffers),
        "buffers_unread": list(objective._unread),
        "draws": objective.draws,
        "loss_parameters_held": objective._loss_parameters,
        "samples": objective.samples,
        "population": objective.population,
        "subset_seed": objective.subset_seed,
        "batches": None if batches is None else len(batches),
        "cut": objective._cut,
        "cut_samples": objective._cut_samples,
        "metrics_cut": objective._metrics_cut,
        "data_resident": None if batches is None else batches.resident,
        "bn": objective.bn,
        **({"mode": objective.mode} if objective.mode == "train" else {}),
        "seed": objective.seed,
        "device": str(objective.device),
        "dtype": dtypes.most_common(1)[0][0],
        "origin": objective.origin,
        "weights": objective._weights,
        "data": objective.data_fingerprint,
        "fingerprint": objective.fingerprint,
    }


def sampling(objective: Objective) -> dict[str, Any]:
    """Facts about the samples that their losses do not show; see `Objective.sampling`."""
    if objective.batches is None:
        return {}
    repeats = objective._data[1]
    facts: dict[str, Any] = {} if objective.population else repeats.copies()
    unseen = None if repeats.labels is None else objective._loss.unseen_weight(repeats.labels)
    if unseen is not None:
        facts["unseen_weight"] = unseen
    if repeats.rows is not None:
        facts["rows"] = repeats.rows
    if objective._of_all:
        facts["population"] = dict(objective._of_all)
    return facts


def fingerprint_of(objective: Objective) -> str:
    """Sixteen hex digits that change with the weights, the data, the loss, the metrics or the BatchNorm policy."""
    digest = hashlib.sha256()
    for part in (objective.params, objective._held, objective._buffers):
        algebra.update_hash(digest, part)
    loss = objective._loss
    fingerprint.update(digest, (objective.name, loss.function, loss.reduction, objective.bn, objective.seed))
    fingerprint.update(digest, (objective.metrics, objective._measured_by, objective.data_fingerprint))
    if objective.mode == "train":
        fingerprint.update(digest, (objective.mode,))
    return digest.hexdigest()[:16]


def read_data(objective: Objective) -> tuple[str, Repeats]:
    """Pass over the data once: return its fingerprint, and what the pass saw of repeated samples and classes."""
    repeats = Repeats()
    if objective.batches is None:
        return "", repeats
    digest = hashlib.sha256()
    with random_state.preserved(objective.seed, objective.device):
        objective.batches.update_hash(digest, repeats.look)
    return digest.hexdigest()[:16], repeats
