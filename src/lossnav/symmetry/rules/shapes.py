"""Operators that only move entries: views, permutations, slices, concatenations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lossnav.symmetry.axes import ONE, AxisTree, Blank, concatenation, cut, divide, product
from lossnav.symmetry.rules.registry import Labels, OperatorCall, in_range, rule


def reshaped(own: Labels, shape: Sequence[int], reason: str) -> Labels:
    """Read the axes of a tensor in another shape, entries in the same order."""
    before = [axis for axis in own if axis.size != 1]
    after = [size for size in shape if size != 1]
    made: list[AxisTree] = []
    i = j = 0
    while i < len(before):
        group, sizes = [before[i]], [after[j]]
        have, want = before[i].size, after[j]
        while have != want:
            if have < want:
                i += 1
                group.append(before[i])
                have *= before[i].size
            else:
                j += 1
                sizes.append(after[j])
                want *= after[j]
        axis = product(group)
        pieces: list[AxisTree] = []
        for size in reversed(sizes[1:]):
            axis, piece = divide(axis, size, reason)
            pieces.append(piece)
        made += [axis, *reversed(pieces)]
        i, j = i + 1, j + 1
    waiting = iter(made)
    return [ONE if size == 1 else next(waiting) for size in shape]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def view(call: OperatorCall) -> Labels:
    """The same entries in another shape."""
    own, shape = call.labels("self"), call.outputs[0].shape
    if 0 in shape or call.get("dtype") is not None:
        return [call.fixed(size) for size in shape]
    return reshaped(own, shape, call.reason)


@rule("permute", "transpose", "t", "movedim", "swapaxes", "transpose_copy", "permute_copy")
def permute(call: OperatorCall) -> Labels:
    """Axes in another order."""
    own = call.labels("self")
    if call.name.startswith("t"):
        if len(own) < 2:
            return own
        i, j = in_range(call.get("dim0", 0), len(own)), in_range(call.get("dim1", 1), len(own))
        own[i], own[j] = own[j], own[i]
        return own
    return [own[in_range(d, len(own))] for d in call["dims"]]


@rule("unsqueeze")
def unsqueeze(call: OperatorCall) -> Labels:
    """One more axis, of one entry."""
    own = call.labels("self")
    own.insert(in_range(call["dim"], len(own) + 1), ONE)
    return own


@rule("squeeze")
def squeeze(call: OperatorCall) -> Labels:
    """Without some axes of one entry."""
    own, dim = call.labels("self"), call.get("dim")
    dims = (
        range(len(own)) if dim is None else [in_range(d, len(own)) for d in (dim if hasattr(dim, "__len__") else [dim])]
    )
    return [axis for i, axis in enumerate(own) if not (i in dims and axis.size == 1)]


@rule("expand", "broadcast_to", "expand_copy")
def expand(call: OperatorCall) -> Labels:
    """The same entries again along an axis."""
    return call.broadcast([call.labels("self")], call.outputs[0].shape)


@rule("repeat", "tile")
def repeat(call: OperatorCall) -> Labels:
    """The whole axis again and again."""
    own = call.labels("self")
    repeats = call["repeats"]
    own = [ONE] * (len(repeats) - len(own)) + own
    return [product([Blank(n), axis]) for n, axis in zip(repeats, own, strict=True)]


@rule("repeat_interleave")
def repeat_interleave(call: OperatorCall) -> Labels:
    """Each entry of an axis again and again."""
    dim, repeats = call.get("dim"), call.get("repeats")
    first = call.first()
    own = call.labels(first)
    if not isinstance(repeats, int) or dim is None:
        for axis in own:
            call.fix(axis)
        return [call.fixed(size) for size in call.outputs[0].shape]
    i = in_range(dim, len(own))
    own[i] = product([own[i], Blank(repeats)])
    return own


@rule("select")
def select(call: OperatorCall) -> Labels:
    """One entry of an axis, which is told apart from the others."""
    own = call.labels("self")
    i = in_range(call["dim"], len(own))
    n, index = own[i].size, int(call["index"]) % own[i].size
    _pieces(own[i], [index, 1, n - index - 1], call.reason)
    return own[:i] + own[i + 1 :]


@rule("slice", "narrow")
def slice_(call: OperatorCall) -> Labels:
    """Entries from one to another; every so many of them is a factor of its own."""
    own, dim = call.labels("self"), call.get("dim", 0)
    i = in_range(dim, len(own))
    n, size = own[i].size, call.outputs[0].shape[i]
    start, _, step = slice(call.get("start"), call.get("end"), call.get("step", 1)).indices(n)
    if size == 0:
        own[i] = Blank(0)
    elif step == 1:
        own[i] = _pieces(own[i], [start, size, n - start - size], call.reason)[1]
    elif n % step == 0 and size == n // step:
        outside, inside = divide(own[i], step, call.reason)
        call.fix(inside)
        own[i] = outside
    else:
        call.fix(own[i])
        own[i] = call.fixed(size)
    return own


@rule("unbind")
def unbind(call: OperatorCall) -> list[Labels]:
    """All entries of an axis, each by itself."""
    own = call.labels("self")
    i = in_range(call.get("dim", 0), len(own))
    call.fix(own[i])
    return [own[:i] + own[i + 1 :] for _ in call.outputs]


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "tensor_split")
def split(call: OperatorCall) -> list[Labels]:
    """Segments of an axis."""
    own = call.labels("self")
    i = in_range(call.get("dim", 0), len(own))
    pieces = _pieces(own[i], [output.shape[i] for output in call.outputs], call.reason)
    return [[*own[:i], piece, *own[i + 1 :]] for piece in pieces]


@rule("cat", "concat")
def cat(call: OperatorCall) -> Labels:
    """Segments one after the other along an axis; the other axes are one."""
    shape = call.outputs[0].shape
    i = in_range(call.get("dim", 0), len(shape))
    parts = [call.labels(t) for t in call["tensors"] if t.dim() == len(shape)]  # torch lets empty vectors pass
    made: Labels = [Blank(size) for size in shape]
    for own in parts:
        made = [axis if k == i else call.merge(axis, own[k]) for k, axis in enumerate(made)]
    made[i] = concatenation([own[i] for own in parts])
    return [ONE if axis.size == 1 else axis for axis in made]


@rule("stack")
def stack(call: OperatorCall) -> Labels:
    """Tensors beside each other along a new axis."""
    shape = call.outputs[0].shape
    i = in_range(call.get("dim", 0), len(shape))
    made = call.broadcast([call.labels(t) for t in call["tensors"]], [*shape[:i], *shape[i + 1 :]])
    return [*made[:i], call.fixed(shape[i]), *made[i:]]


@rule("constant_pad_nd")
def pad(call: OperatorCall) -> Labels:
    """Constants before and after an axis; a negative number of them takes entries away."""
    own, sizes = call.labels("self"), call["pad"]
    for k in range(len(sizes) // 2):
        i, (before, after) = len(own) - 1 - k, sizes[2 * k : 2 * k + 2]
        first, last = max(-before, 0), max(-after, 0)
        n = own[i].size
        inside = _pieces(own[i], [first, n - first - last, last], call.reason)[1]
        own[i] = concatenation([Blank(max(before, 0)), inside, Blank(max(after, 0))])
    return own


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: OperatorCall) -> Labels:
    """Channels of (groups, rest) in the order (rest, groups)."""
    own = call.labels("self")
    outside, inside = divide(own[1], own[1].size // call["groups"], call.reason)
    return [own[0], product([inside, outside]), *own[2:]]


@rule("view_as_complex")
def view_as_complex(call: OperatorCall) -> Labels:
    """Pairs along the last axis become one number."""
    own = call.labels("self")
    call.fix(own[-1])
    return own[:-1]


@rule("view_as_real")
def view_as_real(call: OperatorCall) -> Labels:
    """One number becomes a pair."""
    return [*call.labels("self"), call.fixed(2)]


@rule("unfold", "diagonal", "as_strided", "im2col", "pixel_shuffle", "pixel_unshuffle")
def windows(call: OperatorCall) -> Labels:
    """Windows of some axes: those whose size is kept at their place are as they were, and all before them."""
    own, shape = call.labels("self"), call.outputs[0].shape
    if call.name == "as_strided" and _is_same(call["self"], call.outputs[0]):
        return own
    if call.name == "unfold":
        i = in_range(call["dimension"], len(own))
        call.fix(own[i])
        return [*own[:i], call.fixed(shape[i]), *own[i + 1 :], call.fixed(shape[-1])]
    if call.name.startswith("pixel") and len(own) == 4:
        for axis in own[2:]:
            call.fix(axis)
        places = [call.fixed(size) for size in shape[2:]]
        if call.name == "pixel_unshuffle":
            return [own[0], product([own[1], call.fixed(shape[1] // own[1].size)]), *places]
        channels, inside = divide(own[1], own[1].size // shape[1], call.reason)
        call.fix(inside)
        return [own[0], channels, *places]
    if call.name == "im2col" and len(own) == 4:
        for axis in own[2:]:
            call.fix(axis)
        channels = product([own[1], call.fixed(shape[1] // own[1].size)])
        return [own[0], channels, call.fixed(shape[2])]
    for axis in own:
        call.fix(axis)
    return [call.fixed(size) for size in shape]


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one memory are the same, strides of axes of one entry aside."""
    strides = [[s for n, s in zip(t.shape, t.stride(), strict=True) if n != 1] for t in (a, b)]
    return a.shape == b.shape and strides[0] == strides[1] and a.storage_offset() == b.storage_offset()


def _pieces(axis: AxisTree, sizes: Sequence[int], reason: str) -> list[AxisTree]:
    """Cut an axis; pieces of no entries stay."""
    wanted = [size for size in sizes if size]
    pieces = iter(cut(axis, wanted, reason))
    return [next(pieces) if size else Blank(0) for size in sizes]
