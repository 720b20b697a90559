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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from profiler import events
from profiler.attribution import ModuleCall, ModuleTracker
from profiler.content import content_hash, distinct_values
from profiler.graph import dtype_name
from profiler.hooks import KeptTensor, Pack, Unpack, give_back, keep
from profiler.packed import Copies, describe
from profiler.recompute import name_recomputed
from profiler.stacks import StackTable
from profiler.storages import LiveStorage, StorageTable, has_storage, is_parameter
from profiler.store import RunWriter
from profiler.traced import KeptSave, PackedSave, source_of

_sequence_number = torch._C._autograd._get_sequence_nr
_STRIDED = torch.strided


class Recorder:
    """Writes a row for every save, unpack and transfer.

    Args:
        writer: takes records, new or changed.
        modules, stacks: say where a save happened; stacks may be None.
        storages: the storages seen.
        contents: whether to hash what tensors hold (level values).
    """

    def __init__(
        self,
        writer: RunWriter,
        modules: ModuleTracker,
        stacks: StackTable | None,
        storages: StorageTable,
        *,
        contents: bool = False,
    ) -> None:
        self._write, self._rewrite = writer.add, writer.update
        self._contents = contents
        self._modules = modules
        self._stacks = stacks
        self.storages = storages
        self.step = 0
        self.phase: events.Phase = "forward"
        self.paused = False
        self.differentiable = False  # the backward that runs makes a graph of its own
        self._calls_before = 0  # module calls that ran when it began
        self._unpacking = 0  # pairs of others that give tensors back now
        self.host_totals = {"host": 0, "peer": 0}
        self._ids = itertools.count()
        self._copies: weakref.WeakKeyDictionary[Any, Copies] = weakref.WeakKeyDictionary()
        self._step_rows: list[events.Save] = []  # not yet joined to the graph
        self._joined: list[events.Save] = []
        self._sizes: dict[Sequence[int], tuple[int, ...]] = {}

    def wrap(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        """The same pair, observed."""
        if pack is keep:
            return self._keep, self._give_back
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
            return self._packed(tensor, packed, sequence, start, pack, copies)

        def traced_unpack(saved: Any) -> Tensor:
            if not isinstance(saved, PackedSave):
                return unpack(saved)
            start = time.perf_counter_ns()
            self._unpacking += 1
            try:
                tensor = unpack(saved.packed)
            finally:
                self._unpacking -= 1
            self._note_foreign(saved, tensor)
            self._unpacked(saved.row, tensor, start)
            self._transfers(saved, start)
            return tensor

        return traced_pack, traced_unpack

    def _keep(self, tensor: Tensor) -> KeptSave | KeptTensor:
        """Pack as autograd itself does, observed."""
        if self.paused or tensor.layout is not _STRIDED or tensor.is_nested:
            return keep(tensor)
        row, live = self._row(tensor, _sequence_number() - 1, time.perf_counter_ns(), 1)
        saved = KeptSave(row, self.storages, live, source_of(tensor, row))
        saved.tensor, saved.version = tensor.detach(), row.version
        self._write(row)
        return saved

    def _give_back(self, saved: KeptSave | KeptTensor) -> Tensor:
        if not isinstance(saved, KeptSave):
            return give_back(saved)
        start = time.perf_counter_ns()
        row, tensor = saved.row, saved.tensor
        if tensor._version != saved.version:
            row.unpack_version = tensor._version
            self._rewrite(row)
            return give_back((tensor, saved.version))  # raises
        self._unpacked(row, tensor, start)
        return tensor

    def end_step(self) -> None:
        """Write again what was learnt of rows that no unpack has written since; forget the step."""
        self.take_rows()
        rows, self._joined = self._joined, []
        name_recomputed(rows)
        for row in rows:
            if row.op and (row.unpack_ns is None or row.phase == "recompute"):
                self._rewrite(row)

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

    def _packed(
        self, tensor: Tensor, packed: Any, sequence: int, start: int, pack: Pack, copies: Copies
    ) -> PackedSave:
        row, live = self._row(tensor, sequence, start, 2)
        host = describe(row, tensor, packed, pack, copies, self.host_totals)
        kept = live if row.action == "kept" else None
        saved = PackedSave(row, self.storages, kept, source_of(tensor, row))
        saved.packed, saved.host, saved.copies_seen = packed, host, 0
        self._transfers(saved, start)
        self._write(row)
        return saved

    def _row(
        self, tensor: Tensor, sequence: int, start: int, skip: int
    ) -> tuple[events.Save, LiveStorage]:
        """The row of a save, before it is written, and the tensor's storage.

        skip: frames between this one and the program's.
        """
        running = self._modules.running
        module = running[-1].name if running else events.OUTSIDE
        live = self.storages.see(tensor, module=module)
        node = tensor.grad_fn
        producer = None if node is None else node._sequence_nr()
        storage = live.row
        sizes, shape, stride = self._sizes, tensor.shape, tensor.stride()
        row = events.Save(  # by position, as the columns lie: see events
            next(self._ids),
            self.step,
            self.phase if self.phase != "backward" else self._phase_in_backward(running),
            0,
            start,
            sequence,
            type(node).__name__ if producer == sequence and node is not None else "",
            module,
            None if self._stacks is None else self._stacks.here(skip + 1, running),
            sizes.get(shape) or self._intern(shape),
            dtype_name(tensor.dtype),
            sizes.get(stride) or self._intern(stride),
            int(tensor.storage_offset()),
            storage.device,
            storage.storage_id,
            tensor.nbytes,
            storage.bytes,
            storage.category == "param" or is_parameter(tensor),
            tensor._version,
        )
        row.producer_seq, row.producer_output = producer, tensor.output_nr
        row.unpack_stride = ()
        if self._contents:
            row.content_hash, row.distinct_values = content_hash(tensor), distinct_values(tensor)
        self._step_rows.append(row)
        return row, live

    def begin_backward(self) -> None:
        """Note what runs already: only module calls begun from now on are recomputation."""
        self._calls_before = len(self._modules.running)

    def _phase_in_backward(self, running: Sequence[ModuleCall]) -> events.Phase:
        """Whether a save is of a recomputation, or of a backward to be differentiated again."""
        again = self._unpacking or len(running) > self._calls_before
        return "backward" if self.differentiable and not again else "recompute"

    def _intern(self, sizes: Sequence[int]) -> Sequence[int]:
        """The one tuple for equal sizes: what waits then holds no containers of its own."""
        return self._sizes.setdefault(sizes, tuple(sizes))

    def _unpacked(self, row: events.Save, tensor: Tensor, start: int) -> None:
        row.unpacked_count += 1
        if row.unpack_ns is None:
            row.unpack_ns = start
        if row.action == "kept":
            row.unpack_version = tensor._version
        if self._contents:
            row.unpack_hash = content_hash(tensor)
        self._rewrite(row)

    def _note_foreign(self, saved: PackedSave, tensor: Tensor) -> None:
        """Note what came back from hooks that say nothing of themselves."""
        row = saved.row
        if row.action != "kept" and not hasattr(saved.packed, "action"):
            row.unpack_version = _version_of(saved.source())
            row.unpack_stride = list(tensor.stride()) if tensor.layout is torch.strided else []

    def _transfers(self, saved: PackedSave, start: int) -> None:
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


def _version_of(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor._version
