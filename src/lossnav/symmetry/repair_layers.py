"""Which layers of a network REPAIR changes, decided by how its passes use weights; the others, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from lossnav.errors import ObjectiveError
from lossnav.params import Params
from lossnav.symmetry.units import Layer, LayerKey, NormLayer, Trail


def choose_layers(
    trails: Sequence[Trail], moving: Params, held: Params
) -> tuple[dict[LayerKey, Layer | NormLayer], dict[str, str]]:
    """Decide which layers are repaired.

    Parameters
    ----------
    trails : sequence of Trail
        One of a pass through each end.
    moving, held : dict of str to Tensor
        Parameters that a point has, and those that it has not.

    Returns
    -------
    layers : dict
        In the order of the calls. A bias that is not the layer's alone is left out.
    left : dict of str to str
        Other weights, and why they are left as they are.

    Raises
    ------
    ObjectiveError
        If the ends call other layers.
    """
    first, *others = trails
    keys = [layer.key for layer in first.layers]
    if any([layer.key for layer in trail.layers] != keys for trail in others):
        raise ObjectiveError(
            "The ends call other layers, or in another order, on the repair data, so their units have no common "
            "statistics. Pass data on which all ends take the same way through the network."
        )
    chosen: dict[LayerKey, Layer | NormLayer] = {}
    left: dict[str, str] = {}
    recomputed = {key for key in keys if keys.count(key) == 1}
    for layer in first.layers:
        if isinstance(layer, NormLayer):
            if layer.key in recomputed:
                chosen[layer.key] = layer
            else:
                left[layer.mean] = f"its BatchNorm layer is called {keys.count(layer.key)} times in a pass"
        elif layer.weight in held or layer.weight not in moving:
            left[layer.weight] = "held fixed by the objective"
        elif reason := _shared(first.uses[layer.weight]):
            left[layer.weight] = reason
        elif first.consumers.get(layer.key, {None}) <= recomputed:
            continue  # the statistics of BatchNorm make up for it
        elif layer.key not in first.inner:
            left[layer.weight] = "a last layer: its units are the outputs"
        else:
            bias = layer.bias if layer.bias is not None and _is_own(layer.bias, first, moving) else None
            chosen[layer.key] = replace(layer, bias=bias, inside=layer.inside)
    chosen = {key: one for key, one in chosen.items() if isinstance(one, NormLayer) or one.weight not in left}
    taken = {layer.weight for layer in first.layers if isinstance(layer, Layer)}
    for name, tensor in (moving | held).items():
        if tensor.dim() > 1 and name not in taken:
            kinds = sorted({use for use, _ in first.uses.get(name, [])})
            left[name] = f"used by {', '.join(kinds)}" if kinds else "not used in a pass"
    return chosen, left


def joined(trails: Sequence[Trail]) -> Trail:
    """The trail of several batches: they must call the same layers."""
    first, *others = trails
    for other in others:
        if [layer.key for layer in other.layers] != [layer.key for layer in first.layers]:
            raise ObjectiveError(
                "The network calls other layers on other batches of the repair data. Pass data on which it takes the "
                "same way everywhere, or evaluate without repair."
            )
        for name, uses in other.uses.items():
            if name not in first.uses or [use for use, _ in uses] != [use for use, _ in first.uses[name]]:
                first.uses[name] = [*first.uses.get(name, []), *uses]
        for key, kinds in other.consumers.items():
            first.consumers.setdefault(key, set()).update(kinds)
    return first


def _shared(uses: Sequence[tuple[str, Layer | None]]) -> str:
    """Why a weight is not that of layers alone; empty if it is."""
    if others := sorted({name for name, layer in uses if layer is None}):
        return f"also used by {', '.join(others)}"
    rows = sorted((layer.start, layer.count, layer.view) for _, layer in uses if layer is not None)
    if len({view for *_, view in rows}) > 1 or any(a[0] + a[1] > b[0] for a, b in pairwise(rows)):
        return f"used {len(uses)} times in one pass"
    return ""


def _is_own(bias: tuple[str, int], trail: Trail, moving: Params) -> bool:
    """Whether nothing but layers adds a bias, each its own entries, and it may move."""
    uses = trail.uses[bias[0]]
    if bias[0] not in moving or any(layer is None or layer.bias is None for _, layer in uses):
        return False
    rows = sorted((layer.bias[1], layer.count) for _, layer in uses if layer is not None and layer.bias is not None)
    return all(a[0] + a[1] <= b[0] for a, b in pairwise(rows))
