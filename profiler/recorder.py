"""From what autograd saves to rows: one Save per pack, and what becomes of it until it is freed.

Contract: a hook pair that was wrapped gives exactly what it gave before. The recorder keeps rows
(numbers and names) and what the pair itself returned, nothing else; a saved tensor dies when
autograd drops it, with or without a recorder.
Boundary: it hears of saves and unpacks; phases, steps and the graph are the tracer's business.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from profiler import events
from profiler.attribution import ModuleCall, ModuleTracker
from profiler.content import content_hash, distinct_values
from profiler.graph import dtype_name
from profiler.hooks import KeptTensor, Pack, Unpack
from profiler.packed import Copies, HostCopy, describe
from profiler.recompute import name_recomputed
from profiler.stacks import StackTable
from profiler.storages import LiveStorage, StorageTable, has_storage, is_parameter

_sequence_number = torch._C._autograd._get_sequence_nr


class _Source(weakref.ref[Tensor]):
    """A weak reference to what the program itself has of a saved tensor: it, or its base."""

    __slots__ = ("row",)
    row: events.Save


class TracedSave:
    """What autograd holds while traced: the pair's own packed object, and its row."""

    __slots__ = ("copies_seen", "host", "kept", "packed", "row", "source", "storages")

    def __init__(
        self,
        packed: Any,
        row: events.Save,
        storages: StorageTable,
        kept: LiveStorage | None,
        host: HostCopy | None,
        source: _Source,
    ) -> None:
        self.packed, self.row, self.storages = packed, row, storages
        self.kept, self.host, self.source = kept, host, source
        self.copies_seen = 0
        if kept is not None:
            storages.keep(kept, +1)

    def __del__(self) -> None:
        if self.kept is not None:
            self.storages.keep(self.kept, -1, self.row.op)


class Recorder:
    """Writes a row for every save, unpack and transfer.

    Args:
        write: takes a record, new or changed.
        modules, stacks: say where a save happened; stacks may be None.
        storages: the storages seen.
        contents: whether to hash what tensors hold (level values).
    """

    def __init__(
        self,
        write: Callable[[events.Record], None],
        modules: ModuleTracker,
        stacks: StackTable | None,
        storages: StorageTable,
        *,
        contents: bool = False,
    ) -> None:
        self._write = write
        self._contents = contents
        self._modules = modules
        self._stacks = stacks
        self.storages = storages
        self.step = 0
        self.phase: events.Phase = "forward"
        self.paused = False
        self.host_totals = {"host": 0, "peer": 0}
        self._ids = itertools.count()
        self._copies: weakref.WeakKeyDictionary[Any, Copies] = weakref.WeakKeyDictionary()
        self._step_rows: list[events.Save] = []  # not yet joined to the graph
        self._joined: list[events.Save] = []

    def wrap(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        """The same pair, observed."""
        owner = getattr(pack, "__self__", None)
        copies = self._copies_of(owner)

        def traced_pack(tensor: Tensor) -> Any:
            if self.paused or not has_storage(tensor):
                return pack(tensor)
            sequence = _sequence_number() - 1
            start = time.perf_counter_ns()
            try:
                packed = pack(tensor)
            except Exception:  # checkpointing stops a recomputation so: the tensor is there
                self.storages.see(tensor, module=self._modules.current)
                raise
            return self._saved(tensor, packed, sequence, start, pack, copies)

        def traced_unpack(saved: Any) -> Tensor:
            if not isinstance(saved, TracedSave):
                return unpack(saved)
            start = time.perf_counter_ns()
            try:
                tensor = unpack(saved.packed)
            except RuntimeError:
                self._refused(saved)
                raise
            self._unpacked(saved, tensor, start)
            return tensor

        return traced_pack, traced_unpack

    def end_step(self) -> None:
        """Write again what was learnt of rows that no unpack has written since; forget the step."""
        self.take_rows()
        rows, self._joined = self._joined, []
        name_recomputed(rows)
        for row in rows:
            if row.op and (row.unpack_ns is None or row.phase == "recompute"):
                self._write(row)

    def take_rows(self) -> list[events.Save]:
        """The rows that were not taken yet, to be given the names of their nodes."""
        rows, self._step_rows = self._step_rows, []
        self._joined += rows
        return rows

    def name_nodes(self, names: Mapping[int, str]) -> None:
        """Name the nodes of rows not taken yet: those of a backward inside backward."""
        for row in self._step_rows:
            if not row.op and row.node_seq is not None:
                row.op = names.get(row.node_seq, "")

    def _copies_of(self, owner: Any) -> Copies:
        """Save numbers by the owner's own serials; an owner may push its pair many times."""
        try:
            return self._copies.setdefault(owner, Copies()) if owner is not None else Copies()
        except TypeError:  # not hashable, or no weak references: its serials end with the pair
            return Copies()

    def _saved(
        self, tensor: Tensor, packed: Any, sequence: int, start: int, pack: Pack, copies: Copies
    ) -> TracedSave:
        running = self._modules.running
        module = running[-1].name if running else events.OUTSIDE
        live = self.storages.see(tensor, module=module)
        row = self._row(tensor, live, sequence, start, running)
        whole = tensor._base
        source = _Source(tensor if whole is None else whole, _dropped)
        source.row = row
        if type(packed) is KeptTensor:
            saved = TracedSave(packed, row, self.storages, live, None, source)
        else:
            host = describe(row, tensor, packed, pack, copies, self.host_totals)
            kept = live if row.action == "kept" else None
            saved = TracedSave(packed, row, self.storages, kept, host, source)
            self._transfers(saved, start)
        if self._contents:
            row.content_hash, row.distinct_values = content_hash(tensor), distinct_values(tensor)
        self._write(row)
        self._step_rows.append(row)
        return saved

    def _row(
        self,
        tensor: Tensor,
        live: LiveStorage,
        sequence: int,
        start: int,
        running: Sequence[ModuleCall],
    ) -> events.Save:
        node = tensor.grad_fn
        producer = None if node is None else node._sequence_nr()
        storage = live.row
        return events.Save(
            save_id=next(self._ids),
            step=self.step,
            phase="recompute" if self.phase == "backward" else self.phase,
            time_ns=start,
            node_seq=sequence,
            op=type(node).__name__ if producer == sequence and node is not None else "",
            module=running[-1].name if running else events.OUTSIDE,
            stack_id=None if self._stacks is None else self._stacks.here(3, running),
            shape=list(tensor.shape),
            dtype=dtype_name(tensor.dtype),
            stride=list(tensor.stride()),
            storage_offset=int(tensor.storage_offset()),
            device=storage.device,
            storage_id=storage.storage_id,
            logical_bytes=tensor.nbytes,
            storage_bytes=storage.bytes,
            is_param=storage.category == "param" or is_parameter(tensor),
            version=tensor._version,
            producer_seq=producer,
            producer_output=tensor.output_nr,
        )

    def _unpacked(self, saved: TracedSave, tensor: Tensor, start: int) -> None:
        row, packed = saved.row, saved.packed
        row.unpacked_count += 1
        if row.unpack_ns is None:
            row.unpack_ns = start
        if row.action == "kept":
            row.unpack_version = tensor._version
        elif not hasattr(packed, "action"):  # hooks that say nothing
            row.unpack_version = _version_of(saved.source())
            row.unpack_stride = list(tensor.stride()) if tensor.layout is torch.strided else []
        if self._contents:
            row.unpack_hash = content_hash(tensor)
        self._write(row)
        if type(packed) is not KeptTensor:
            self._transfers(saved, start)

    def _refused(self, saved: TracedSave) -> None:
        """The pair would not give the tensor back: note the version that made it refuse."""
        if isinstance(saved.packed, KeptTensor):
            saved.row.unpack_version = saved.packed.tensor._version
            self._write(saved.row)

    def _transfers(self, saved: TracedSave, start: int) -> None:
        """Write the copies that the pair reports; infer one where it copied without a word."""
        row, copies = saved.row, getattr(saved.packed, "copies", None)
        if copies is None:
            if row.action == "copied":
                self._write(self._inferred_transfer(row, start))
            return
        fresh = copies[saved.copies_seen :]
        saved.copies_seen += len(fresh)
        for copy in fresh:
            self._write(
                events.Transfer(
                    step=row.step,
                    direction=copy.direction,
                    bytes=copy.bytes,
                    start_ns=copy.start_ns,
                    end_ns=copy.end_ns,
                    pinned=copy.pinned,
                    simulated=copy.simulated,
                    peer=copy.peer,
                    save_id=row.save_id,
                    module=row.module,
                )
            )

    def _inferred_transfer(self, row: events.Save, start: int) -> events.Transfer:
        return events.Transfer(
            step=row.step,
            direction="h2d" if row.unpacked_count else "d2h",
            bytes=row.host_bytes,
            start_ns=start,
            end_ns=time.perf_counter_ns(),
            simulated=row.device == "cpu",
            save_id=row.save_id,
            module=row.module,
        )


def _dropped(source: _Source) -> None:
    if source.row.unpack_ns is None:  # the row is written again when it is unpacked
        source.row.dropped_ns = time.perf_counter_ns()


def _version_of(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor._version
