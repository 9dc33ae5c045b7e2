"""The role of each parameter of a model: a weight, a bias, or a scale or shift of a normalisation ("norm").

The types of torch's own layers tell it. For other layers the shape tells it if it can: a parameter with two axes is a
weight. The remaining vectors and scalars of custom layers are watched in one pass: a parameter that multiplies
activations entry by entry is a scale, one that is added to them is a bias, and one that is contracted, looked up or
joined is a weight. The name of a class decides nothing, and the name of a parameter only together with its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lossnav import params as algebra
from lossnav.errors import OptionError
from lossnav.objective.batch_norm import BATCH_NORMS

Role = Literal["weight", "bias", "norm"]
Use = Literal["contracted", "scales", "added", "joined"]

_SCALES = (  # layers whose parameters scale and shift entry by entry
    BATCH_NORMS,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.PReLU,
)
_WEIGHED = (  # layers whose "weight…" is contracted and whose "bias…" is added
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def excluded(params: Mapping[str, Tensor], roles: Mapping[str, Role], exclude: Sequence[str]) -> set[str]:
    """Names of the parameters that `exclude` leaves out: roles ("bias", "norm") or names (glob patterns).

    Raises
    ------
    OptionError
        If a pattern matches nothing.
    """
    wanted = {word for word in exclude if word in ("bias", "norm")}
    patterns = [word for word in exclude if word not in wanted]
    if unmatched := [pattern for pattern in patterns if not algebra.select(params, pattern)]:
        raise OptionError(
            f"exclude={unmatched[0]!r} matches no parameter. Use 'bias', 'norm' or a glob such as 'fc.*'; "
            f"the names are {', '.join(list(params)[:5])}, …"
        )
    by_role = {name for name, role in roles.items() if role in wanted}
    return by_role | set(algebra.select(params, patterns))


def describe_parameters(model: nn.Module, names: Collection[str]) -> tuple[dict[str, Role], dict[str, int]]:
    """Return the roles of parameters as far as types and shapes tell, and the groups of transposed weights.

    Parameters
    ----------
    model : nn.Module
    names : collection of str

    Returns
    -------
    roles : dict of str to {"weight", "bias", "norm"}
    transposed : dict of str to int
        Weights whose filters run along the second axis, with their number of groups.

    Examples
    --------
    >>> class LinearNorm(nn.Linear):
    ...     pass
    >>> describe_parameters(nn.Sequential(LinearNorm(2, 3), nn.PReLU()), ["0.weight", "0.bias", "1.weight"])[0]
    {'0.weight': 'weight', '0.bias': 'bias', '1.weight': 'norm'}
    """
    places = ParameterOwners(model)
    roles = {name: places.role(name) for name in names}
    transposed: dict[str, int] = {}
    for name in names:
        owner, _, parameter = places.owner(name)
        if isinstance(owner, _TRANSPOSED) and parameter.dim() > 2 and roles[name] == "weight":
            transposed[name] = owner.groups
        elif type(owner).__name__ == "Conv1D" and parameter.dim() == 2:  # GPT-2's: (inputs, outputs)
            transposed[name] = 1
    return roles, transposed


def role_by_name(name: str) -> Role:
    """The role of a tensor of a bare function: only its name can tell it."""
    return "bias" if "bias" in name.rsplit(".", 1)[-1] else "weight"


class ParameterOwners:
    """The layer that each parameter of a model belongs to, and its name there.

    A weight that is computed from others (`torch.nn.utils.parametrize`, weight_norm) belongs to the layer that uses it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters(remove_duplicate=False))

    def owner(self, name: str) -> tuple[nn.Module, str, Tensor]:
        """The layer that a parameter belongs to, its name there, and the parameter."""
        prefix, _, leaf = name.rpartition(".")
        module = self._modules[prefix]
        parameter = self._parameters[name]
        if isinstance(module, ParametrizationList):
            outside, _, leaf = prefix.rpartition(".")  # "layer.parametrizations", "weight"
            return self._modules[outside.rpartition(".")[0]], leaf, parameter
        return module, leaf, parameter

    def role(self, name: str) -> Role:
        """The role of a parameter, by the type of its layer, or by its shape and the others in the layer."""
        if self._is_magnitude(name):
            return "norm"
        module, leaf, parameter = self.owner(name)
        known = _of_torch(module, leaf)
        if known is not None:
            return known
        if _is_matrix(parameter):
            return "weight"
        beside = dict(module.named_parameters(recurse=False))
        if any(_is_matrix(other) for other in beside.values()):
            return role_by_name(leaf)
        if parameter.dim() > 1 or all("bias" in other for other in beside):
            return role_by_name(leaf)
        return "norm"

    def is_open(self, name: str) -> bool:
        """Whether only a pass can tell the role: a vector of a custom layer, or a matrix with the name of a bias."""
        module, leaf, parameter = self.owner(name)
        if self._is_magnitude(name) or _of_torch(module, leaf) is not None:
            return False
        if _is_matrix(parameter):
            return "bias" in leaf
        beside = dict(module.named_parameters(recurse=False)).values()
        is_plain_bias = leaf == "bias" and parameter.dim() == 1 and any(_is_matrix(other) for other in beside)
        return not is_plain_bias

    def _is_magnitude(self, name: str) -> bool:
        """Whether it is the norm of a weight, which weight_norm keeps apart from the direction."""
        prefix, _, leaf = name.rpartition(".")
        module = self._modules[prefix]
        if isinstance(module, ParametrizationList):
            return leaf == "original0" and isinstance(module[0], _WeightNorm)
        hooks = module._forward_pre_hooks.values()
        return any(isinstance(hook, WeightNorm) and leaf == f"{hook.name}_g" for hook in hooks)


def open_names(model: nn.Module, names: Collection[str]) -> list[str]:
    """Names of the parameters whose role only a pass can tell."""
    places = ParameterOwners(model)
    return [name for name in names if places.is_open(name)]


def by_use(
    model: nn.Module, roles: Mapping[str, Role], tensors: Mapping[str, Tensor], run: Callable[[], object]
) -> dict[str, Role]:
    """Determine the roles that types and shapes leave open, from what a pass does with the parameters.

    Parameters
    ----------
    model : nn.Module
        The model, for the layers that parameters belong to.
    roles : mapping of str to {"weight", "bias", "norm"}
        Roles by types and shapes.
    tensors : mapping of str to Tensor
        The open parameters: the tensors that the pass uses.
    run : callable
        Makes the pass.

    Returns
    -------
    dict of str to {"weight", "bias", "norm"}
        All roles.
    """
    watch = _UseMode(tensors)
    with watch:
        run()
    places, found = ParameterOwners(model), dict(roles)
    scales: set[int] = set()  # layers that contain a scale
    for name, uses in watch.uses.items():
        module, leaf, parameter = places.owner(name)
        if _is_matrix(parameter):
            if uses == {"added"}:  # biases of many experts, for example; a matrix that is looked up in is a table
                found[name] = "bias"
        elif "contracted" in uses:
            found[name] = "weight"
        elif "scales" in uses:
            found[name] = "norm"
            scales.add(id(module))
        elif "added" in uses:
            found[name] = "bias"
        elif "joined" in uses and found[name] == "norm":
            found[name] = role_by_name(leaf)  # joined to something, as a class token is
    for name in tensors:
        module, _, _ = places.owner(name)
        own, beneath = dict(module.named_parameters(recurse=False)), list(module.parameters())
        if id(module) in scales and found[name] == "bias" and len(own) == len(beneath):
            prefix = name[: len(name) - len(name.rpartition(".")[2])]
            if all(found.get(prefix + leaf) != "weight" for leaf in own):
                found[name] = "norm"  # the shift of a layer that only scales and shifts
    if "weight" not in found.values():  # a model that has no others: these are its weights
        found |= dict.fromkeys(tensors, "weight")
    return found


class _UseMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what the operations of a pass do with some tensors, and with values computed from one of them alone."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: dict[str, set[Use]] = {name: set() for name in tensors}
        self._names = {_place(tensor): name for name, tensor in tensors.items()}
        self._kept: list[Tensor] = list(tensors.values())  # keeps their memory from being reused
        self._products = WeakIdKeyDictionary()  # products with one of them

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, which takes two seconds, at the first operation."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        inside = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        summed = function is torch.ops.aten.sum.dim_IntList and {args[0].dim() - 1, -1} & {*(args[1] or ())}
        if summed and args[0] in self._products:  # multiplied and summed: a product with a vector
            self.uses[self._products[args[0]]].add("contracted")
        for name in {self._names[place] for tensor in inside if (place := _place(tensor)) in self._names}:
            self._note(name, function, args, inside, made)
        return made

    def _note(self, name: str, function: Any, args: Sequence[Any], inside: Sequence[Tensor], made: Any) -> None:
        word = function.overloadpacket.__name__
        ours = [tensor for tensor in inside if self._names.get(_place(tensor)) == name]
        others = [tensor for tensor in inside if self._names.get(_place(tensor)) != name]
        larger = [other for other in others if _is_larger(other, ours[0])]
        if word in _NORMALISING:
            self.uses[name].add("scales")
        elif word in _CONTRACTING:
            bias = _CONTRACTING[word]
            added = bias is not None and len(args) > bias and any(args[bias] is tensor for tensor in ours)
            self.uses[name].add("added" if added else "contracted")
        elif larger and word in _MULTIPLYING:
            self.uses[name].add("scales")
            self._products[made] = name
        elif larger and word in _ADDING:
            self.uses[name].add("added")
        elif isinstance(made, Tensor) and made.is_floating_point() and not larger and word not in _JOINING:
            place = _place(made)
            if place not in self._names and made.numel() <= max(t.numel() for t in ours):  # computed from it alone
                self._names[place] = name
                self._kept.append(made)
        elif not function.is_view:
            self.uses[name].add("joined")


_MULTIPLYING = {"mul", "mul_", "div", "div_", "addcmul", "addcmul_", "_prelu_kernel", "prelu", "lerp"}
_ADDING = {"add", "add_", "sub", "sub_", "rsub"}
_JOINING = {"cat", "stack", "where", "sum", "mean", "norm", "linalg_vector_norm", "max", "min", "amax", "amin"}
_NORMALISING = {
    "native_layer_norm", "native_batch_norm", "native_group_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
    "miopen_batch_norm", "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_fused_rms_norm",
    "rms_norm", "_batch_norm_no_update", "batch_norm", "instance_norm", "layer_norm", "group_norm",
}  # fmt: skip
_CONTRACTING: dict[str, int | None] = {  # with the position of the bias among their arguments
    "mm": None, "bmm": None, "mv": None, "dot": None, "vdot": None, "_trilinear": None, "_grouped_mm": None,
    "addmm": 0, "addmv": 0, "addbmm": 0, "baddbmm": 0, "_addmm_activation": 0, "linear": 2, "mkldnn_linear": 2,
    "convolution": 2, "_convolution": 2, "mkldnn_convolution": 2, "cudnn_convolution": None,
    "embedding": None, "_embedding_bag": None, "_embedding_bag_forward_only": None,
    "index": None, "index_select": None, "gather": None, "take": None,
}  # fmt: skip


def _place(tensor: Tensor) -> int:
    """Identifies the memory of a tensor, the same for all its views; 0 if it has none of its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return 0


def _is_larger(other: Tensor, ours: Tensor) -> bool:
    """Whether the other tensor is larger, so that this one is broadcast over it."""
    if other.numel() != ours.numel():
        return other.numel() > ours.numel()
    return other.dim() > ours.dim() or (0 in ours.stride() and 0 not in other.stride())


def _of_torch(module: nn.Module, leaf: str) -> Role | None:
    """The role of a parameter of torch's own layers and of classes derived from them; None for any other."""
    if isinstance(module, _SCALES) and leaf in ("weight", "bias"):
        return "norm"
    if isinstance(module, nn.MultiheadAttention):
        return "bias" if "bias" in leaf else "weight"
    if isinstance(module, _WEIGHED):
        return "weight" if leaf.startswith("weight") else "bias" if leaf.startswith("bias") else None
    return None


def _is_matrix(tensor: Tensor) -> bool:
    """Whether more than one axis has more than one entry."""
    return sum(size > 1 for size in tensor.shape) > 1
