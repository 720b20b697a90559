"""Offload what any model saves for backward, copying nothing twice.

Contract: gradients are those without offloading, exactly. One host copy per live storage or range
of bytes used; parameters and buffers stay, whatever view of them is saved; a tensor written to
between save and use raises, naming the operation and the module that saved it.
Boundary: chooses what leaves the device; how a tensor is kept and found again is the policy's.
Source: the marshaling of eDKM (arXiv 2309.00964) sec. 2.1, for any program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from edkm.saved.budget import Budget, Planner
from edkm.saved.few_values import FewValuesRecord, few_values
from edkm.saved.handle import SavedHandle
from edkm.saved.layout import Layout
from edkm.saved.ledger import Copy, Ledger
from edkm.saved.modules import ModuleFilter, ModuleNames
from edkm.saved.narrow import narrowed
from edkm.saved.policy import SavedTensorPolicy
from edkm.saved.recipe import Recipe
from edkm.saved.record import HostRecord
from edkm.saved.replay import KINDS
from edkm.saved.resident import Residents
from edkm.saved.shard import Learners
from edkm.saved.transport import Transport, transport_for


class Offload(SavedTensorPolicy):
    """The context manager that `offload` makes. See there for the arguments."""

    def __init__(
        self,
        module: nn.Module | None,
        *,
        transport: Transport,
        hold: bool,
        include: Sequence[str] | None,
        exclude: Sequence[str],
        min_bytes: int,
        uniquify: bool,
        shard: Learners | int | None,
        rebuild: Collection[str],
        hops: int,
        budget: Budget,
        ledger: Ledger | None,
    ) -> None:
        super().__init__(
            marshal=True,
            uniquify=uniquify,
            shard=shard,
            hops=hops,
            min_bytes=min_bytes,
            rebuild=rebuild,
            ledger=ledger,
            transport=transport,
            hold=hold,
        )
        self.name = "offload"
        self._filter = ModuleFilter(module, include, exclude)
        self._names = ModuleNames(module)
        self._residents = Residents(module)
        self._planner = Planner(budget)
        self._few_values = uniquify
        self._narrow = "upcast" in rebuild

    @property
    def planner(self) -> Planner:
        """What the budgets led to, from the second step on."""
        return self._planner

    @contextlib.contextmanager
    def _around(self) -> Iterator[None]:
        self._residents.refresh()
        outermost = not self._entered
        with self._names.followed():
            if outermost:
                self._planner.begin()
            yield
        if outermost:
            self._planner.end()

    def pack(self, tensor: Tensor) -> SavedHandle:
        """Take charge of a tensor that autograd saves (the pack hook)."""
        with self._packing:
            self._planner.next_save(self._module())
            handle = super().pack(tensor)
            self._planner.saved(tensor, handle)
            return handle

    def _takes(self, tensor: Tensor) -> bool:
        return (
            super()._takes(tensor)
            and not self._residents.holds(tensor)
            and self._filter.takes(self._names.running)
            and self._planner.takes(tensor, self.ledger.host_bytes)
        )

    def _source(self, leaf: Tensor, node: Any) -> HostRecord | None:
        return self._residents.source(leaf, node, self._learners, self.memory)

    def _module(self) -> str | None:
        running = self._names.running
        return running[-1] if running else None

    def _recipe(self, serial: int, tensor: Tensor, layout: Layout, copies: list[Copy]) -> Recipe:
        found = narrowed(tensor, layout, self._hops) if self._narrow else None
        if found is None:
            return super()._recipe(serial, tensor, layout, copies)
        narrow, step = found
        source = Layout.of(narrow)
        self.ledger.spared(step.name, layout.logical_bytes - source.logical_bytes)
        recipe = Recipe(self._record(serial, narrow, source, copies), source, layout, (step,))
        if self._registry is not None:
            self._registry.add_source(tensor.grad_fn, recipe)
        return recipe

    def _record(
        self, serial: int, tensor: Tensor, layout: Layout, copies: list[Copy]
    ) -> HostRecord:
        found = few_values(tensor, layout) if self._few_values else None
        if found is None:
            return super()._record(serial, tensor, layout, copies)
        return FewValuesRecord(found, serial, layout, self._learners, self.memory, copies.append)


def offload(
    module: nn.Module | None = None,
    *,
    pin_memory: bool = True,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    min_bytes: int = 1024,
    uniquify: bool = False,
    shard: Learners | int | None = None,
    rebuild: Collection[str] = KINDS,
    hops: int = 4,
    device_budget: int | None = None,
    host_budget: int | None = None,
    hold: bool = True,
    prefetch: int = 2,
    pinned_cap: int | None = None,
    ledger: Ledger | None = None,
) -> Offload:
    """Keep on the host what autograd saves inside this context, each byte once.

    A drop-in for `torch.autograd.graph.save_on_cpu(pin_memory=...)` and, with a model, for
    offloaders that follow modules. Backward may run inside or outside; enter it again every step.

    Args:
        module: the model. Its parameters and buffers stay where they are, and errors, `include`
            and `exclude` know its modules' names. Without it only parameters are known.
        pin_memory: pinned host memory and side streams, on CUDA.
        include, exclude: shell patterns of module names; what is saved inside a matching module
            is offloaded, or is not. None includes everything.
        min_bytes: tensors whose storage is smaller than this stay.
        uniquify: keep 16-bit tensors of at most 256 distinct values as a table and codes, and
            N x K maps of a 16-bit weight as in eDKM. Costs a pass over each 16-bit tensor.
        shard: keep 1/L of the rows: a number of learners to simulate, or `GroupLearners`. Only
            for what is equal on every learner.
        rebuild: operations to replay instead of copying their result, see
            `edkm.saved.replay.KINDS`. "upcast" also copies the wide twin of a narrow tensor in
            the narrow type. `()` aliases equal layouts only.
        hops: longest walk back through the autograd graph, in operations.
        device_budget: bytes that saved tensors may keep on the device; from the second step on as
            little as needed is offloaded, by most bytes freed per byte moved.
        host_budget: bytes of host memory that are never exceeded; what does not fit stays.
        hold: once back on the device, bytes stay until the last save that needs them is gone, so
            that each crosses once; with retain_graph that is when the graph goes. False frees
            them after each use, and they cross again for the next.
        prefetch: copies started ahead of backward, in its order (CUDA).
        pinned_cap: most bytes of pinned memory in use; what exceeds it is pageable.
        ledger: accounts to keep; a fresh one where None.

    Returns:
        The context manager; `ledger` has its accounts (bytes held, bytes moved, and per kind of
        rebuild what was spared and the time it took).

    Raises:
        ValueError: a setting that cannot be, or a pattern that no module's name matches.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU())
        >>> with offload(model) as offloaded:
        ...     loss = model(torch.rand(8, 64)).sum()
        >>> loss.backward()
        >>> offloaded.ledger.host_bytes
        0
    """
    return Offload(
        module,
        transport=transport_for(pin_memory, prefetch, pinned_cap),
        hold=hold,
        include=include,
        exclude=exclude,
        min_bytes=min_bytes,
        uniquify=uniquify,
        shard=shard,
        rebuild=rebuild,
        hops=hops,
        budget=Budget(device_budget, host_budget),
        ledger=ledger,
    )
