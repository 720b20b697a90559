"""`Tracer`: watch what autograd saves in a `with` block, and leave a run folder.

Contract: results are bit-equal and peak memory is the same with the tracer on and off; it holds
no reference to a tensor. A killed program leaves a readable run.
Boundary: joins the parts (hooks, recorder, attribution, graph, memory, store); each is a file.
Eager autograd only: under torch.compile the partitioner decides what is saved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from profiler import events, graph
from profiler.attribution import ModuleTracker, module_of_nodes
from profiler.hooks import Pack, Unpack, listening
from profiler.memory import MemorySampler
from profiler.recorder import Recorder
from profiler.residents import Residents
from profiler.stacks import StackTable
from profiler.storages import StorageTable
from profiler.store import RunWriter
from profiler.summary import SummaryRecorder

Level = Literal["summary", "full", "values"]
LEVELS: tuple[Level, ...] = ("summary", "full", "values")
_CATEGORIES = {f"{name}_bytes": name for name in ("param", "grad", "optimizer", "saved", "temp")}
_INTERVALS = {"summary": 0.1}  # ten samples a second cost a loaded core 0.1 %
_WORTH_A_WRITE = 200  # a step so many times as long as a write is on disk when it ends
FLUSH_SECONDS = {"summary": 10.0, "full": 2.0, "values": 2.0}  # between writes; each one costs


class Tracer:
    """Records saves, storages, transfers, the autograd graph and memory.

    A step is what `step()` encloses; outside of it, steps end with every `optimizer.step()`.

    Args:
        path: the run folder to make.
        model: names its modules and parameters in the rows; more by `register`. Models that
            nobody registers are named at their first call.
        level: "full" records every save, the graph and stacks; "summary" bytes per module;
            "values" as full, and hashes what tensors hold (slow: reads them).
        info: what run.json says besides versions and hardware.
        stacks: record the Python stack of every save (not at level summary).
        steps: the first step to record and the one to stop before; None stands for no bound.
        interval: seconds between memory samples; None: 0.1 at level summary, else 0.02.
        force: replace an existing run at `path`.
        rank, world_size: this process among those that write to the same folder.
        first_step: number of the first step, where training is resumed.

    Raises:
        ValueError: the folder exists and holds something, or cannot be written; unknown level.

    Example:
        >>> import tempfile, os
        >>> model, x = nn.Linear(4, 4), torch.rand(2, 4)
        >>> path = os.path.join(tempfile.mkdtemp(), "run")
        >>> with Tracer(path, model=model) as tracer:
        ...     with tracer.step():
        ...         model(x).relu().sum().backward()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: nn.Module | None = None,
        level: Level = "full",
        info: Mapping[str, Any] | None = None,
        stacks: bool = True,
        steps: tuple[int | None, int | None] = (None, None),
        interval: float | None = None,
        force: bool = False,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: unknown; choose from {', '.join(LEVELS)}")
        info = {**(info or {}), "level": level}
        pause = FLUSH_SECONDS[level]
        self.writer = RunWriter(
            path, info, flush_seconds=pause, force=force, rank=rank, world_size=world_size
        )
        self.level, full = level, level != "summary"
        self._modules = ModuleTracker(self.register, frames=stacks and full, spans=full)
        self._storages = StorageTable(self.writer.add, self.writer.update)
        self._recorder = self._make_recorder(stacks)
        seconds = _INTERVALS.get(level, 0.02) if interval is None else interval
        self._sampler = MemorySampler(self.writer.add, self._describe_memory, interval=seconds)
        self._residents = Residents(self._storages)
        self._window = steps
        self._steps = first_step
        self._step: events.Step | None = None
        self._pauses = 0
        self._named_steps = 0  # how many `step()` are entered
        self._backwards: list[bool] = []  # those that run, one inside another: differentiable?
        self._stack = contextlib.ExitStack()
        if model is not None:
            self.register(model)

    def register(self, model: nn.Module) -> None:
        """Name this model's modules and parameters in what is recorded from now on."""
        for row in self._modules.register(model):
            self.writer.add(row)
        prefix, full = self._modules.name_of(model), self.level != "summary"
        for hook in self._residents.see_model(model, prefix, gradients=full):
            self._stack.callback(hook.remove)

    @property
    def host_bytes(self) -> int:
        """Bytes of saved tensors that hooks hold on the host now, for this learner."""
        return self._recorder.host_totals["host"]

    @property
    def kept_bytes(self) -> int:
        """Bytes of non-parameter storages that saved tensors keep on their device now."""
        return self._storages.bytes_of("saved")

    def __enter__(self) -> Tracer:
        self._modules.start()
        self._stack.callback(self._modules.stop)
        self._stack.enter_context(listening(self))
        self._sampler.start()
        self._begin_step("")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
            self._end_step()
            self._sampler.stop()
        finally:
            self.writer.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def step(self, name: str = "") -> Iterator[events.Step]:
        """One training step, or one configuration; give it a name to find it again."""
        self._end_step()
        row = self._begin_step(name)
        self._named_steps += 1
        try:
            yield row
        finally:
            self._named_steps -= 1
            self._end_step(always=True)
            self._begin_step("")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing inside: what is done there is none of the traced program's work."""
        self._pauses += 1
        self._pause_or_go()
        try:
            yield
        finally:
            self._pauses -= 1
            self._pause_or_go()

    def wrap(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        return self._recorder.wrap(pack, unpack)

    def backward_starts(self, roots: Sequence[Any], differentiable: bool) -> None:
        self._backwards.append(differentiable)
        self._recorder.differentiable = differentiable
        if self._pauses:
            return
        if len(self._backwards) > 1:  # of a checkpoint, for example
            if isinstance(self._recorder, Recorder):
                self._recorder.name_nodes(graph.names_of(roots))
            return
        if self._step is not None and self._step.forward_end_ns is None:
            self._step.forward_end_ns = time.perf_counter_ns()
        if self._recorder.paused:
            return
        if isinstance(self._recorder, Recorder):
            self._recorder.begin_backward()
            self._record_graph(roots, self._recorder)
        self._enter_phase("backward")

    def backward_ends(self) -> None:
        self._backwards.pop()
        self._recorder.differentiable = bool(self._backwards) and self._backwards[-1]
        if self._backwards or self._recorder.paused:
            return
        self._enter_phase("forward")

    def optimizer_starts(self, optimizer: torch.optim.Optimizer) -> None:
        self._enter_phase("optimizer")

    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        self._residents.see_state(optimizer)
        self._enter_phase("forward")
        if not self._named_steps:
            self._end_step()
            self._begin_step("")

    def _make_recorder(self, stacks: bool) -> Recorder | SummaryRecorder:
        if self.level == "summary":
            return SummaryRecorder(self.writer.add, self._modules)
        table = StackTable(self.writer.add) if stacks else None
        contents = self.level == "values"
        return Recorder(self.writer, self._modules, table, self._storages, contents=contents)

    def _begin_step(self, name: str) -> events.Step:
        row = events.Step(step=self._steps, name=name, start_ns=time.perf_counter_ns())
        self._step = row
        self._recorder.step = row.step
        self._storages.start_step(row.step)
        self._pause_or_go()
        self._enter_phase("forward")
        return row

    def _end_step(self, *, always: bool = False) -> None:
        """Write the step, unless nothing happened in it: then its number is given again."""
        row, self._step = self._step, None
        happened = row is not None and (always or row.forward_end_ns is not None)
        if row is None or not happened:
            return
        self._steps += 1
        row.end_ns = time.perf_counter_ns()
        row.peak_bytes = self._storages.peak_bytes
        self._recorder.end_step()
        self._modules.take_spans()
        if not self._recorder.paused or self._pauses:
            self._enter_phase("idle")
            self.writer.add(row)
            seconds = (row.end_ns - row.start_ns) / 1e9
            if always or seconds > _WORTH_A_WRITE * self.writer.write_seconds:
                self.writer.flush()

    def _pause_or_go(self) -> None:
        first, stop = self._window
        number = self._steps
        outside = number < (first or 0) or (stop is not None and number >= stop)
        self._recorder.paused = outside or self._pauses > 0

    def _enter_phase(self, phase: events.Phase) -> None:
        self._recorder.phase = phase
        if not self._recorder.paused:
            self.writer.add(self._sampler.sample())

    def _record_graph(self, roots: Sequence[Any], recorder: Recorder) -> None:
        """Write the graph below `roots`, and tell its saves the name of their node."""
        nodes, edges = graph.walk(roots, self._residents.name_of)
        modules = module_of_nodes(self._modules.take_spans())
        columns = graph.join(nodes, recorder.take_rows(), modules)
        for table, found in (("nodes", columns), ("edges", edges._asdict())):
            count = len(next(iter(found.values())))
            if count:
                self.writer.add_many(table, {"step": [recorder.step] * count, **found})

    def _describe_memory(self) -> dict[str, Any]:
        """What is alive now, by category; on CUDA the sampler asks the allocator for the rest."""
        storages, host = self._storages, self._recorder.host_totals
        fields: dict[str, Any] = {
            "step": self._recorder.step,
            "phase": self._recorder.phase,
            "host_bytes": host["host"],
            "peer_bytes": host["peer"],
        }
        for name, category in _CATEGORIES.items():
            fields[name] = storages.bytes_of(category)
        if not torch.cuda.is_initialized():
            fields["allocated_bytes"] = fields["reserved_bytes"] = storages.total_bytes
        return fields
