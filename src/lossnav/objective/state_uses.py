"""Which tensors of a model a pass reads and writes, seen operator by operator."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossnav.objective.passes import Passes

_SHARE = 1 / 4  # part of the free memory that a second copy of the model may take
_SHARED = 2**26  # bytes: a larger model that is not copied is compared at its centre only

_NUMBERS_UNREAD = re.compile(r"::(new_\w+|\w+_like|sym_\w+)(\.|$)")  # operations that read only a shape
_HOME, _TORCH = Path(__file__).parents[1].as_posix(), Path(torch.__file__).parent.as_posix()


class _WrittenError(Exception):
    """The forward pass writes into the weights that it is given."""


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches which memory the operations of a pass read.

    Parameters
    ----------
    owners, hollow : dict of int to str
        Names by the memory of a tensor: of the user's own parameters, and of those of the structure.
    objects : dict of int to str
        Names of the user's own parameters by their id, if others share their memory.
    protected : set of int
        Memory that nothing may write to.
    """

    def __init__(
        self,
        owners: Mapping[int, str],
        objects: Mapping[int, str],
        hollow: Mapping[int, str],
        protected: set[int],
        passes: Passes,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners, self.objects, self.hollow, self.protected = owners, dict(objects), hollow, protected
        self.found: dict[str, str] = {}
        self.hollow_found: dict[str, None] = {}
        self._views: list[Tensor] = []  # keeps them alive, because their ids are in `objects`
        self._names = {} if not hasattr(passes, "whole") else {
            id(module): name for name, module in passes.whole.model.named_modules()
        }  # fmt: skip

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, which takes two seconds, at the first operation."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.protected and function._schema.is_mutable:
            self._require_unwritten(function, args)
        tainted = None
        if not _NUMBERS_UNREAD.search(function.name()):
            for tensor in _flat((args, kwargs)):
                place = _place(tensor)
                owner = self.owners.get(place) or self.objects.get(id(tensor))
                if owner is not None:
                    if function.is_view:
                        tainted = owner
                    elif owner not in self.found:
                        self.found[owner] = self._where()
                elif place in self.hollow and not function.is_view:
                    self.hollow_found[self.hollow[place]] = None
        made = function(*args, **kwargs)
        if tainted is not None and self.objects:
            for tensor in _flat(made):
                self.objects[id(tensor)] = tainted
                self._views.append(tensor)
        return made

    def _require_unwritten(self, function: Any, args: Any) -> None:
        for argument, value in zip(function._schema.arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and any(_place(tensor) in self.protected for tensor in _flat(value)):
                raise _WrittenError

    def _where(self) -> str:
        """Which code uses it: the part of the objective, and the line."""
        frame: Any = sys._getframe(1)
        line, part = "", ""
        while frame is not None:
            code, file = frame.f_code, Path(frame.f_code.co_filename).as_posix()
            if not line and not file.startswith((_HOME, _TORCH)):
                line = f" ({Path(file).name}:{frame.f_lineno}, in {code.co_name})"
            owner = frame.f_locals.get("self")
            if not part and isinstance(owner, nn.Module) and id(owner) in self._names and code.co_name == "_call_impl":
                part = f'in the forward pass or a hook of "{self._names[id(owner)]}"'
            if not part and file.startswith(_HOME):
                if code.co_name == "__call__" and type(owner).__name__ in ("Loss", "_Between"):
                    part = "in the loss"
                elif code.co_name == "_measure":
                    part = "in forward= or a metric"
            frame = frame.f_back
        return f"{part or 'elsewhere'}{line}"


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))


def _place(tensor: Tensor) -> int:
    """The address of the memory of a tensor; a unique number if it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, or of a subclass
        return -id(tensor)
