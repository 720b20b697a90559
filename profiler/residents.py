"""What is in memory whatever autograd saves: parameters, their gradients, the optimizer's state.

Contract: each is shown to the storage table under its category when it is met; parameters keep
their names for as long as they live. No tensor is kept alive.
Boundary: which modules there are is profiler.attribution's.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from profiler.storages import StorageTable, has_storage, own_parameters


class Residents:
    """Shows resident tensors to `storages`, and names the parameters among them."""

    def __init__(self, storages: StorageTable) -> None:
        self._storages = storages
        self._names: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}
        self._states: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = (
            weakref.WeakKeyDictionary()
        )

    def see_model(
        self, model: nn.Module, prefix: str, *, gradients: bool
    ) -> Iterator[RemovableHandle]:
        """Meet the parameters of a model that is called `prefix`.

        Yields the hooks that are to be removed in the end: with `gradients`, one per parameter
        that tells of its gradient.
        """
        for name, parameter in own_parameters(model):
            full = f"{prefix}.{name}" if prefix else name
            module = full.rpartition(".")[0]
            self._names[id(parameter)] = (weakref.ref(parameter), full)
            if has_storage(parameter):
                self._storages.see_resident(parameter, "param", module=module)
            if gradients and parameter.requires_grad:
                arrived = functools.partial(self._gradient_arrived, module)
                yield parameter.register_post_accumulate_grad_hook(arrived)

    def see_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Meet an optimizer's state, where it has grown: that is at its first step only."""
        if self._states.get(optimizer) == len(optimizer.state):
            return
        self._states[optimizer] = len(optimizer.state)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and has_storage(value):
                    self._storages.see_resident(value, "optimizer")

    def name_of(self, tensor: torch.Tensor) -> str:
        """A parameter's qualified name, "" for any other tensor."""
        known = self._names.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else ""

    def _gradient_arrived(self, module: str, parameter: torch.Tensor) -> None:
        if (grad := parameter.grad) is not None and has_storage(grad):
            self._storages.see_resident(grad, "grad", module=module)
