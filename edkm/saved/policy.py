"""What happens to a tensor that autograd saves: M, U and S, composed, around any forward.

Contract: with any combination of the three, gradients are bit-equal to those without the policy.
A tensor that cannot be kept exactly elsewhere is left where it is.
Boundary: decides; identity, tables, shards and host memory have files of their own. A tensor
offered by autograd goes: already on the host? (M) a table of few rows? (U) only my rows? (S).
Source: eDKM (arXiv 2309.00964) sec. 2.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edkm.saved.handle import KeptHandle, OffloadedHandle, SavedHandle
from edkm.saved.host import HostMemory
from edkm.saved.layout import Layout
from edkm.saved.ledger import Copy, Ledger
from edkm.saved.marshal import FINDERS, Registry
from edkm.saved.pieces import PiecedRecord
from edkm.saved.recipe import Recipe
from edkm.saved.record import HostRecord, TableRecord, WholeRecord
from edkm.saved.replay import KINDS
from edkm.saved.shard import Learners, SimulatedLearners
from edkm.saved.transport import Transport
from edkm.saved.uniquify import Uniquifier

Policy = TypeVar("Policy", bound="SavedTensorPolicy")


class SavedTensorPolicy(contextlib.AbstractContextManager["SavedTensorPolicy"]):
    """Keep what autograd saves on the host, by the paper's three optimizations.

    Enter it around a forward; backward may run inside or outside. It may be entered again, and
    what it knows to be on the host then still counts.

    Args:
        marshal: M. Keep one copy of bytes that several saved tensors share, and replay views and
            clamp. Without it every save is copied, as `torch.autograd.graph.save_on_cpu` does.
        uniquify: U. Keep N x K tensors computed from a 16-bit weight as table and index list.
        shard: S. A number of learners to simulate in this process, or `GroupLearners` over a
            process group. None: everything is kept here.
        hops: longest walk back through the graph, in operations.
        finders: which of "storage" and "graph" marshaling may use.
        min_bytes: tensors whose storage is smaller than this stay where they are. The storage
            decides, not the tensor: a small view that stays would keep all of a large storage.
        skip_parameters: leave `nn.Parameter` storages where they are: they are in memory anyway.
        rebuild: operations that marshaling may replay, of `edkm.saved.replay.KINDS`.
        ledger: accounts to keep; a fresh one where None.
        transport: how bytes cross; at once, into pageable memory, where None.
        hold: once back on the device, bytes stay until the last save that needs them is gone, so
            that they cross once. Otherwise they cross again unless something else holds them.

    Raises:
        ValueError: hops or min_bytes negative, an unknown finder or operation, or learners
            below one.

    Example:
        >>> weight = torch.rand(64, 64, requires_grad=True)
        >>> with SavedTensorPolicy(marshal=True) as policy:
        ...     loss = (weight.t() @ weight).square().sum()
        >>> loss.backward()
        >>> policy.ledger.host_bytes
        0
    """

    def __init__(
        self,
        *,
        marshal: bool = True,
        uniquify: bool = False,
        shard: Learners | int | None = None,
        hops: int = 4,
        finders: tuple[str, ...] = FINDERS,
        min_bytes: int = 1024,
        skip_parameters: bool = False,
        rebuild: Collection[str] = ("view", "clamp"),
        ledger: Ledger | None = None,
        transport: Transport | None = None,
        hold: bool = False,
    ) -> None:
        _check_settings(hops, min_bytes, finders, rebuild)
        self.ledger = ledger if ledger is not None else Ledger()
        self.memory = HostMemory(self.ledger, transport, hold=hold)
        self._hops = hops
        self._registry = Registry(hops, finders, rebuild) if marshal else None
        self._uniquifier = Uniquifier() if uniquify else None
        self._learners = (
            shard
            if isinstance(shard, Learners)
            else SimulatedLearners(1 if shard is None else shard)
        )
        self._min_bytes = min_bytes
        self._skip_parameters = skip_parameters
        self._serials = itertools.count()
        self._packing = threading.RLock()  # forwards on several threads may share the policy
        self._local = threading.local()  # each thread enters and leaves by itself
        self.name = switch_name(marshal, uniquify, self._learners.count > 1)

    @property
    def _entered(self) -> list[contextlib.ExitStack]:
        """This thread's entries, innermost last."""
        found: list[contextlib.ExitStack] = self._local.__dict__.setdefault("entered", [])
        return found

    def _around(self) -> contextlib.AbstractContextManager[object]:
        """What each entry is in besides the hooks; it may add to this method."""
        return contextlib.nullcontext()

    def __enter__(self: Policy) -> Policy:
        with contextlib.ExitStack() as entered:
            entered.enter_context(self._around())
            # innermost: only those hooks run
            entered.enter_context(torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack))
            self._entered.append(entered.pop_all())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)

    def pack(self, tensor: Tensor) -> SavedHandle:
        """Take charge of a tensor that autograd saves (the pack hook).

        Args:
            tensor: any shape, dtype and layout.

        Returns:
            A handle to give to `unpack`; dropping it frees what it alone kept.
        """
        with self._packing:
            serial = next(self._serials)
            if self._uniquifier is not None and is_plain(tensor):  # weights that stay, too
                self._uniquifier.observe(tensor, Layout.of(tensor))
            if not self._takes(tensor):
                return self._kept(serial, tensor)
            layout = Layout.of(tensor)
            return self._marshaled(serial, tensor, layout) or self._copied(serial, tensor, layout)

    def unpack(self, handle: SavedHandle) -> Tensor:
        """Give the tensor back to backward, equal bit by bit (the unpack hook).

        Raises:
            RuntimeError: the tensor was written to after it was saved.
        """
        return handle.unpack()

    def _kept(self, serial: int, tensor: Tensor) -> SavedHandle:
        """Leave the tensor where it is."""
        return KeptHandle(serial, tensor, module=self._module())

    def _takes(self, tensor: Tensor) -> bool:
        """Whether the tensor may leave the device."""
        if not is_plain(tensor) or tensor.untyped_storage().nbytes() < self._min_bytes:
            return False
        return not (self._skip_parameters and isinstance(_base_of(tensor), nn.Parameter))

    def _source(self, leaf: Tensor, node: Any) -> HostRecord | None:
        """The record of a parameter that stays on the device, for what `node` computed from it."""
        return None

    def _module(self) -> str | None:
        """Name of the module whose forward is running, where known: for error messages."""
        return None

    def _marshaled(self, serial: int, tensor: Tensor, layout: Layout) -> SavedHandle | None:
        if self._registry is None:
            return None
        found = self._registry.find(tensor, layout, self._source)
        if found is None:
            return None
        self._registry.add(tensor, found.recipe, found.hops or 0)
        self.ledger.spared(found.recipe.kind, min(layout.distinct_bytes, layout.span_bytes))
        return OffloadedHandle(
            serial,
            tensor,
            found.recipe,
            action="rebuilt" if found.recipe.steps else "alias",
            alias_of=found.recipe.record.serial,
            hops=found.hops,
            finder=found.finder,
            module=self._module(),
        )

    def _copied(self, serial: int, tensor: Tensor, layout: Layout) -> SavedHandle:
        copies: list[Copy] = []
        recipe = self._recipe(serial, tensor, layout, copies)
        if self._registry is not None:
            self._registry.add(tensor, recipe)
        return OffloadedHandle(
            serial,
            tensor,
            recipe,
            action=recipe.record.action,
            copies=copies,
            module=self._module(),
        )

    def _recipe(self, serial: int, tensor: Tensor, layout: Layout, copies: list[Copy]) -> Recipe:
        """Make a record of the tensor, and say how to have the tensor from it."""
        return Recipe(self._record(serial, tensor, layout, copies), layout, layout)

    def _record(
        self, serial: int, tensor: Tensor, layout: Layout, copies: list[Copy]
    ) -> HostRecord:
        about = (serial, layout, self._learners, self.memory, copies.append)
        table = self._uniquifier.table(tensor, layout) if self._uniquifier is not None else None
        if table is not None:
            return TableRecord(table, *about)
        parts = self._registry.parts(tensor, layout) if self._registry is not None else []
        return PiecedRecord(parts, tensor, *about) if parts else WholeRecord(tensor, *about)


def switch_name(marshal: bool, uniquify: bool, shard: bool) -> str:
    """The paper's name for a combination: "none", "M", "M+S", "M+U", "M+U+S", ..."""
    letters = [s for s, on in zip("MUS", (marshal, uniquify, shard), strict=True) if on]
    return "+".join(letters) or "none"


def _base_of(tensor: Tensor) -> Tensor:
    return tensor._base if tensor._base is not None else tensor


def is_plain(tensor: Tensor) -> bool:
    """Whether it is elements in a storage and nothing else, so that a copy can stand for it.

    Not: subclasses, sparse, quantized and nested tensors, tensors without data or elements.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)
        and tensor.numel() > 0
    )


def _check_settings(
    hops: int, min_bytes: int, finders: tuple[str, ...], rebuild: Collection[str]
) -> None:
    if hops < 0:
        raise ValueError(f"hops={hops}: the graph walk cannot be negative; 0 turns it off")
    if min_bytes < 0:
        raise ValueError(f"min_bytes={min_bytes}: must not be negative; 0 takes every tensor")
    unknown = [f for f in finders if f not in FINDERS]
    if unknown:
        raise ValueError(f"finders={unknown}: unknown; choose from {', '.join(FINDERS)}")
    strange = sorted(set(rebuild) - set(KINDS))
    if strange:
        raise ValueError(f"rebuild={strange}: unknown; choose from {', '.join(KINDS)}")
