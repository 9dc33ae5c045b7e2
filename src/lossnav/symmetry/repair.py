"""REPAIR: the statistics of a network's units, set to what lies between those of the networks at the ends.

Between two networks, even aligned ones, the units of a mean of weights vary less than those of either: sums of
weights that are only partly alike cancel. REPAIR (Jordan et al. 2023) rescales and shifts every unit so that its mean
and standard deviation over data are the interpolated ones, and folds both into the weights and biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.simplex import Triangulation
from lossnav._utils.validation import described, require
from lossnav.errors import ObjectiveError, OptionError
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.comparing import join
from lossnav.objective.networks import End, together
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params
from lossnav.symmetry.repair_data import RepairData, drawn, fingerprint_of
from lossnav.symmetry.repair_layers import choose_layers, joined
from lossnav.symmetry.unit_pass import pass_with_units
from lossnav.symmetry.units import Layer, LayerKey, Moments, NormLayer, Trail, moments_of

Array = NDArray[np.float64]

_ROUNDING = 4  # times the resolution of the dtype, of a unit's root mean square: it varies by rounding alone


class RepairedPoint(Checkpoint):
    """Weights and buffers after REPAIR, with what was done.

    Attributes
    ----------
    weights : ndarray of shape (ends,)
        With what weights the statistics of the ends are mixed.
    constant : int
        Units that do not vary at this point, though they do at an end: no factor gives them a standard deviation.
    repair : Repair
        The layers, and the ends' statistics.
    """

    def __init__(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], weights: Array, constant: int, repair: Repair
    ) -> None:
        super().__init__(params, buffers)
        self.weights, self.constant, self.repair = weights, constant, repair

    def __reduce__(self) -> Any:
        return RepairedPoint, (dict(self), self.buffers, self.weights, self.constant, self.repair)


def repair(
    objective: Objective,
    point: Mapping[str, Tensor],
    ends: Sequence[End],
    data: Any,
    *,
    weights: ArrayLike | None = None,
) -> RepairedPoint:
    """Rescale and shift the units of a network so that their statistics lie between those of the ends.

    For each unit of each linear and convolution layer::

        mean = sum_i w_i mean_i,   std = sum_i w_i std_i,   w_i the weights of the ends

    are its mean and standard deviation over the data after the repair; mean_i and std_i are those of its outputs at
    end i, before any non-linearity, over all samples and positions. The factor std / std_here and the shift are folded
    into weight and bias, in float64; where they are 1 and 0, no bit changes. Layers are repaired **in the order in
    which they are called**: each is measured while all layers before it are repaired already, on all data at once, so
    the law holds to rounding for every layer together. BatchNorm statistics are recomputed in the same order (mean and
    unbiased variance over all data), and a layer whose outputs go only to BatchNorm is left to it. At an end the result
    is that end.

    Which layers: every operator that multiplies data with a weight, or some of its rows, whatever module or function
    calls it: Linear, convolutions, fused and separate projections of attention. Left as they are, and named in
    ``.repair.left``: weights that are used twice in a pass or by something else too (a tied embedding, a recurrent
    cell), computed weights (weight norm), weights that the objective holds fixed, and the last layers, whose units are
    the outputs. A layer without a bias cannot be shifted: only its standard deviation is set, and
    ``.repair.without_bias`` names it (give it a bias of zeros to have both: ``nn.Linear(..., bias=True)``).

    Nothing that is given is changed.

    Parameters
    ----------
    objective : Objective
        Its module, in eval mode. Its own data is not used.
    point : dict of str to Tensor
        A point of weight space, with the buffers that it carries.
    ends : sequence of Objective, nn.Module, path or dict of str to Tensor
        Two networks or more: weights and buffers. Align them before (`ln.align`).
    data : RepairData, or anything that it takes as data
        Training data; by default 1,000 samples of it, drawn with seed 0.
    weights : sequence of float, optional
        The weight of each end, of sum 1. By default those of the nearest point of the ends' hull: of a point on the
        line between two, its place on it.

    Returns
    -------
    RepairedPoint
        Parameters and buffers, in the dtypes of the point.

    Raises
    ------
    OptionError
        If there are fewer than two ends, an option has no such value, the objective is a bare function, calls its model
        in train mode, or has no layer that can be repaired.
    StructureMismatchError, CheckpointMismatchError
        If point or ends do not fit the objective.
    ObjectiveError
        If an end's units are not finite, or the networks call other layers on the data.
    DataError
        If the data does not fit the model.

    References
    ----------
    Jordan et al. 2023, "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", section 4. Departure:
    they measure all layers jointly in one pass over batches, each normalised by the statistics of its batch; a layer
    then meets its statistics only up to the differences of batches. They repair hidden layers, as here.

    Examples
    --------
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> a, x = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 1)), torch.randn(99, 2)
    >>> b = {name: torch.randn_like(tensor) for name, tensor in a.state_dict().items()}
    >>> objective = Objective(a, "mse", (x, torch.zeros(99, 1)))
    >>> middle = {name: (tensor + b[name]) / 2 for name, tensor in objective.params.items()}
    >>> fixed = repair(objective, middle, [a, b], (x, torch.zeros(99, 1)))
    >>> stds = [(x @ m["0.weight"].T).std(0) for m in (objective.params, b, fixed)]
    >>> bool(torch.allclose(stds[2], (stds[0] + stds[1]) / 2, rtol=1e-4))
    True
    """
    require(objective, "objective")
    if isinstance(ends, Mapping | str) or not isinstance(ends, Sequence):
        raise OptionError(f"ends is {described(ends)}. Pass a list of two networks or more: ends=[a, b].")
    if len(ends) < 2:
        raise OptionError("There are fewer than two ends to interpolate between. Pass two networks: ends=[a, b].")
    objective.require_same_structure(point, "the point")
    _, *networks = together(objective, *ends)
    if any(network.params.keys() != objective.params.keys() for network in networks):
        raise OptionError(
            "The ends differ in parameters that the objective holds fixed. Let them move: "
            "ln.Objective(model, loss, data, params='all')."
        )
    made = Repair(objective, [Checkpoint(n.params, objective.buffers_at({}, n.buffers)) for n in networks], data)
    return made.at(point, made.place_of(point) if weights is None else weights)


class Repair:
    """REPAIR between given ends: their statistics, measured once.

    Parameters
    ----------
    objective : Objective
    ends : sequence of Checkpoint
        All parameters and buffers.
    data : RepairData, or anything that it takes as data

    Attributes
    ----------
    layers : list of str
        Weights whose units are repaired, in the order of the calls.
    without_bias : list of str
        Those among them that have no bias of their own: only the standard deviation is set.
    batch_norm : list of str
        Running means (buffers) of the BatchNorm layers whose statistics are recomputed.
    left : dict of str to str
        Weights that are left as they are, and why.
    samples : int or None
        Samples of the data, where they can be counted.
    step : float
        At the ends, the largest distance of a BatchNorm layer's own running mean from that of the data, in standard
        deviations: the statistics step by so much beside an end. 0 without BatchNorm.

    Raises
    ------
    As `repair` does.
    """

    def __init__(self, objective: Objective, ends: Sequence[Checkpoint], data: Any) -> None:
        _require_module(objective)
        self.objective, self.ends = objective, list(ends)
        asked = data if isinstance(data, RepairData) else RepairData(data)
        batches, self.population = drawn(objective, asked)
        self.seed, self.fingerprint = asked.seed, fingerprint_of(batches)
        joined, count = join(batches)
        self.samples = count or None
        self._batches: list[Batch] = list(batches) if joined is None else [joined]
        self._plan: dict[LayerKey, Layer | NormLayer] = {}
        self._mean: dict[LayerKey, Tensor] = {}  # (ends, units)
        self._std: dict[LayerKey, Tensor] = {}
        self.left: dict[str, str] = {}
        self.step = 0.0
        self._measure_ends()

    # ------------------------------------------------------------------ the ends

    def _measure_ends(self) -> None:
        trails, found = zip(*(self._look(end) for end in self.ends), strict=True)
        self._plan, self.left = choose_layers(trails, self.objective.params, self.objective.forward_pass.held)
        if not self._plan:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in list(self.left.items())[:3])
            raise OptionError(
                f"{self.objective.name} has no layer that REPAIR can change: {reasons or 'it has no weights'}. "
                "Evaluate without repair."
            )
        for key, layer in self._plan.items():
            if isinstance(layer, NormLayer):
                continue
            many = [own[key] for own in found]
            if any(not bool(torch.isfinite(one.mean).all() & torch.isfinite(one.variance).all()) for one in many):
                raise ObjectiveError(
                    f'The units of "{layer.weight}" are not finite at an end of the interpolation. Pass ends whose '
                    "outputs on the repair data are finite."
                )
            self._mean[key] = torch.stack([one.mean for one in many])
            self._std[key] = torch.stack([one.std for one in many])
            if layer.bias is not None and not layer.inside:
                self._mean[key] += torch.stack([_entries(end, layer).double() for end in self.ends])

    def _look(self, end: Checkpoint) -> tuple[Trail, dict[LayerKey, Moments]]:
        """Pass the data through an end: how weights are used, and the moments of all units."""
        found: dict[LayerKey, Moments] = {}
        frozen = self.objective.bn == "frozen"

        def visit(layer: Layer | NormLayer, values: Tensor, own: Params) -> bool:
            if not isinstance(layer, NormLayer):
                here = moments_of(values, layer.dim)
                found[layer.key] = found[layer.key].with_more(here) if layer.key in found else here
                return False
            here = moments_of(values, 1)
            if frozen:
                off = (here.mean - own[layer.mean].double()).abs()
                spread = own[layer.variance].double().clamp(min=0).sqrt()
                off = off[spread > 0] / spread[spread > 0]
                self.step = max(self.step, float(off.max()) if len(off) else 0.0)
            elif len(self._batches) == 1:  # the objective recomputes them at every point, and so at an end
                _set_statistics(own, layer, here)
            return False

        trails: list[Trail] = []
        for batch in self._batches:
            trail, _ = pass_with_units(self.objective, dict(end), end.buffers, batch, visit)
            trails.append(trail)
        return joined(trails), found

    @property
    def layers(self) -> list[str]:
        """Weights whose units are repaired, in the order of the calls."""
        return list(dict.fromkeys(one.weight for one in self._plan.values() if isinstance(one, Layer)))

    @property
    def without_bias(self) -> list[str]:
        """Repaired weights without a bias of their own."""
        names = (one.weight for one in self._plan.values() if isinstance(one, Layer) and one.bias is None)
        return list(dict.fromkeys(names))

    @property
    def batch_norm(self) -> list[str]:
        """Running means of the BatchNorm layers whose statistics are recomputed."""
        return [one.mean for one in self._plan.values() if isinstance(one, NormLayer)]

    # ------------------------------------------------------------------ a point

    def at(self, point: Mapping[str, Tensor], weights: ArrayLike) -> RepairedPoint:
        """Return the repaired weights and buffers at a point.

        Parameters
        ----------
        point : mapping of str to Tensor
            Parameters of the objective, with the buffers that the point carries.
        weights : array of shape (ends,)
            The weight of each end in the statistics, of sum 1.

        Raises
        ------
        OptionError
            If the weights do not fit.
        ObjectiveError
            If the network calls other layers at this point.
        """
        given = np.asarray(weights, np.float64).reshape(-1)
        if given.shape != (len(self.ends),) or not np.isfinite(given).all() or abs(given.sum() - 1) > 1e-6:
            raise OptionError(
                f"weights is {described(weights)} for {len(self.ends)} ends. Pass a number for each end, of sum 1."
            )
        params = {
            name: point[name].detach().to(own.device, own.dtype, copy=True)
            for name, own in self.objective.params.items()
        }
        buffers = algebra.copy(self.objective.buffers_at(point))
        for end in self.ends:
            if _is_end(params, end):
                return RepairedPoint(algebra.copy(end), algebra.copy(end.buffers), given, 0, self)
        share, constant = torch.as_tensor(given), 0
        if len(self._batches) == 1:
            met: list[LayerKey] = []

            def visit(layer: Layer | NormLayer, values: Tensor, own: Params) -> bool:
                nonlocal constant
                met.append(layer.key)
                mine = self._plan.get(layer.key)
                if mine is None:
                    return False
                changed, fixed = self._fold(own, mine, moments_of(values, layer.dim), share)
                constant += fixed
                return changed

            _, state = pass_with_units(self.objective, params, buffers, self._batches[0], visit)
            self._require_all(met)
            params, buffers = ({name: state[name] for name in part} for part in (params, buffers))
        else:
            for key, mine in self._plan.items():
                constant += self._fold(params | buffers, mine, self._moments(key, params, buffers), share)[1]
        return RepairedPoint(params, buffers, given, constant, self)

    def place_of(self, point: Mapping[str, Tensor]) -> Array:
        """Return the weights of the ends in the nearest point of their hull, shape (ends,)."""
        first, *others = self.ends
        edges = [_difference(end, first) for end in others]
        gram = np.array([[algebra.dot(a, b) for b in edges] for a in edges])
        if np.linalg.matrix_rank(gram, hermitian=True) < len(edges):
            raise OptionError("The ends are dependent, so a point has no place between them. Pass weights=.")
        coords = np.linalg.solve(gram, [algebra.dot(edge, _difference(point, first)) for edge in edges])
        return Triangulation(np.concatenate([np.zeros((1, len(edges))), np.eye(len(edges))]), gram).weights(coords)

    def _moments(self, key: LayerKey, params: Params, buffers: Params) -> Moments:
        """Moments of one layer's units over all batches; each pass ends there."""
        found: list[Moments] = []

        def visit(layer: Layer | NormLayer, values: Tensor, own: Params) -> bool:
            if layer.key == key:
                found.append(moments_of(values, layer.dim))
                raise _ReachedError
            return False

        for batch in self._batches:
            try:
                pass_with_units(self.objective, params, buffers, batch, visit)
            except _ReachedError:
                continue
        self._require_all([key] if found else [], [key])
        total = found[0]
        for one in found[1:]:
            total = total.with_more(one)
        return total

    def _fold(
        self, own: Mapping[str, Tensor], layer: Layer | NormLayer, here: Moments, share: Tensor
    ) -> tuple[bool, int]:
        """Write what makes the statistics the interpolated ones into weight and bias.

        Returns whether anything changed, and the number of units that do not vary though they should.
        """
        if isinstance(layer, NormLayer):
            _set_statistics(own, layer, here)
            return True, 0
        share = share.to(here.mean.device)
        mean, std = share @ self._mean[layer.key], share @ self._std[layer.key]
        weight = own[layer.weight]
        level = _ROUNDING * torch.finfo(weight.dtype).eps * (here.mean.square() + here.variance).sqrt()
        varies = here.std > level
        factors = torch.where(varies, std / torch.where(varies, here.std, 1.0), 1.0)
        constant = int((~varies & (std > level)).sum())
        changed = bool((factors != 1).any())
        if layer.bias is not None:
            bias = _entries(own, layer)
            now = here.mean if layer.inside else here.mean + bias.double()
            shifts = mean - factors * now
            if changed or bool((shifts != 0).any()):
                bias.copy_((bias.double() * factors + shifts).to(bias.dtype))
                changed = True
        if bool((factors != 1).any()):
            layer.scale_(weight, factors)
        return changed, constant

    def _require_all(self, met: Sequence[LayerKey], wanted: Sequence[LayerKey] | None = None) -> None:
        wanted = list(self._plan) if wanted is None else wanted
        missing = [key[0] for key in wanted if met.count(key) != 1]
        if missing:
            raise ObjectiveError(
                f'The network does not call the layer of "{missing[0]}" once at this point, as it does at the ends. '
                "Pass repair data on which it takes the same way everywhere, or evaluate without repair."
            )

    def describe(self) -> dict[str, Any]:
        """Describe the repair in values that JSON can hold: data, seed, ends, and which layers it changes."""
        return {
            "data": self.fingerprint,
            "samples": self.samples,
            "population": self.population,
            "seed": self.seed,
            "ends": [algebra.fingerprint(dict(sorted(end.items()))) for end in self.ends],
            "layers": self.layers,
            "without_bias": self.without_bias,
            "batch_norm": self.batch_norm,
            "batch_norm_step": self.step,
            "left": self.left,
        }


class _ReachedError(BaseException):
    """The layer of interest is measured; no forward of the user's catches this."""


def _require_module(objective: Objective) -> None:
    if objective.forward_pass.is_function:
        raise OptionError(
            "The objective is a bare function of parameters, which has no layers to repair. Pass an objective of a "
            "module: ln.Objective(model, loss, data)."
        )
    if objective.mode == "train":
        raise OptionError(
            "REPAIR measures a network in eval mode, and this objective calls its model in train mode. Build the "
            "objective with mode='eval'."
        )


def _entries(own: Mapping[str, Tensor], layer: Layer) -> Tensor:
    """The entries of a layer's bias, as a view."""
    assert layer.bias is not None
    name, start = layer.bias
    return own[name].reshape(-1)[start : start + layer.count]


def _is_end(params: Params, end: Params) -> bool:
    """Whether a point is an end up to rounding, as a chart's point there is."""
    if all(algebra.same(params[name], tensor) for name, tensor in end.items()):
        return True
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in end.values())
    return algebra.norm(_difference(params, end)) <= 4 * rounding * algebra.norm(end)


def _set_statistics(own: Mapping[str, Tensor], layer: NormLayer, here: Moments) -> None:
    """The running statistics that BatchNorm has after one pass over all data: mean and unbiased variance."""
    own[layer.mean].copy_(here.mean)
    own[layer.variance].copy_(here.variance * (here.count / max(here.count - 1, 1)))


def _difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Params:
    return {name: a[name].detach().double() - tensor.detach().double() for name, tensor in b.items()}
