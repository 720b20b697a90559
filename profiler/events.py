"""The record types of a run folder: one dataclass per table, one field per column.

Contract: the field names and their order are the columns on disk; units are in the names.
Boundary: plain data only. Nothing here imports torch, and nothing here reads or writes a file.
Give fields by name, except where thousands of rows are made a second: 35 names cost 6 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Action = Literal["kept", "copied", "alias", "rebuilt", "table", "shard"]
Direction = Literal["d2h", "h2d"]
Category = Literal["param", "grad", "optimizer", "saved", "temp", "host"]
Phase = Literal["forward", "recompute", "backward", "optimizer", "idle"]
OUTSIDE = "(outside)"  # in place of a module's name, where none was running
ROOT = "(root)"  # what readers are shown for the root module's name, which is ""


class Row:
    """What all records have besides their columns: whether the writer holds them to be written."""

    __slots__ = ("waiting",)
    waiting: bool


@dataclass(slots=True)
class Save(Row):
    """One tensor that one autograd node saved for its backward."""

    table: ClassVar[str] = "saves"
    key: ClassVar[str | None] = "save_id"

    save_id: int
    step: int = 0
    phase: str = "forward"
    rank: int = 0
    time_ns: int = 0
    node_seq: int | None = None  # autograd sequence number of the node that saves
    op: str = ""  # name of that node, e.g. "MmBackward0"
    module: str = ""  # the innermost that was running; "" for the root, OUTSIDE for none
    stack_id: int | None = None
    shape: Sequence[int] = field(default_factory=list)
    dtype: str = ""
    stride: Sequence[int] = field(default_factory=list)
    storage_offset: int = 0
    device: str = ""
    storage_id: int = 0
    logical_bytes: int = 0
    storage_bytes: int = 0
    is_param: bool = False
    version: int = 0
    action: str = "kept"
    alias_of: int | None = None  # save_id of the save whose copy this one reuses
    hops: int | None = None  # operations between the two
    finder: str | None = None  # "storage" or "graph"
    host_bytes: int = 0  # what this save added to this learner's host memory
    peer_bytes: int = 0  # what it added to the other (simulated) learners' host memory
    unpack_ns: int | None = None  # when backward first asked for it
    unpacked_count: int = 0
    producer_seq: int | None = None  # node that made the tensor; None for leaves and constants
    producer_output: int = 0  # which of that node's outputs it is
    unpack_version: int | None = None  # version of the tensor when backward asked, where it lives
    unpack_stride: Sequence[int] = field(default_factory=list)  # of what foreign hooks gave back
    distinct_values: int | None = None  # 16-bit patterns in it; this and below: level values
    content_hash: str | None = None  # of sampled elements when saved
    unpack_hash: str | None = None  # the same of what backward got
    dropped_ns: int | None = None  # when the program let go of the tensor; None: not before unpack


@dataclass(slots=True)
class Storage(Row):
    """One block of memory that tensors view. Its id is a serial, never an address."""

    table: ClassVar[str] = "storages"
    key: ClassVar[str | None] = "storage_id"

    storage_id: int
    rank: int = 0
    step: int = 0
    bytes: int = 0
    device: str = ""
    category: str = "saved"
    born_ns: int = 0  # first seen
    died_ns: int | None = None
    module: str = ""
    last_keeper: str = ""  # op of the last save that kept it


@dataclass(slots=True)
class Transfer(Row):
    """One copy between a device and the host."""

    table: ClassVar[str] = "transfers"
    key: ClassVar[str | None] = None

    rank: int = 0
    step: int = 0
    direction: str = "d2h"
    bytes: int = 0
    start_ns: int = 0
    end_ns: int = 0
    stream: int = 0
    pinned: bool = False
    simulated: bool = False  # True where no bus was crossed (CPU-only machine)
    peer: bool = False  # True where it belongs to another, simulated learner
    save_id: int | None = None
    module: str = ""


@dataclass(slots=True)
class Node(Row):
    """One node of the autograd graph.

    How long a node takes is not recorded: the moments that are known are those of its saves, and
    the time from one node's save to the next one's holds whatever lies between them. Measuring it
    takes two hooks a node, and on CUDA would time launches only. Ask `torch.profiler`.
    """

    table: ClassVar[str] = "nodes"
    key: ClassVar[str | None] = None

    rank: int = 0
    step: int = 0
    seq: int = 0  # autograd sequence number; negative serial for AccumulateGrad
    name: str = ""
    module: str = ""
    stack_id: int | None = None  # of its first save; nodes that save nothing have none
    shape: list[int] = field(default_factory=list)  # of its first output
    saved_bytes: int = 0
    saved_unique_bytes: int = 0
    forward_ns: int | None = None  # for other writers; the tracer has no honest source
    backward_ns: int | None = None  # likewise
    dtype: str = ""  # of its first output


@dataclass(slots=True)
class Edge(Row):
    """`source` made a tensor that `target` consumed (forward direction), by sequence number."""

    table: ClassVar[str] = "edges"
    key: ClassVar[str | None] = None

    rank: int = 0
    step: int = 0
    source: int = 0
    target: int = 0
    output: int = 0  # which output of `source`


@dataclass(slots=True)
class MemorySample(Row):
    """Memory at one moment. On CPU, allocated is the tracked storages and reserved equals it."""

    table: ClassVar[str] = "memory"
    key: ClassVar[str | None] = None

    rank: int = 0
    step: int = 0
    time_ns: int = 0
    phase: str = "idle"
    device: str = "cpu"
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    rss_bytes: int = 0
    param_bytes: int = 0
    grad_bytes: int = 0
    optimizer_bytes: int = 0
    saved_bytes: int = 0
    temp_bytes: int = 0
    host_bytes: int = 0
    peer_bytes: int = 0


@dataclass(slots=True)
class Module(Row):
    """One module of the traced model."""

    table: ClassVar[str] = "modules"
    key: ClassVar[str | None] = "module"

    module: str  # qualified name, "" for the root
    rank: int = 0
    kind: str = ""  # class name
    parent: str | None = None
    param_bytes: int = 0
    trainable_bytes: int = 0


@dataclass(slots=True)
class Stack(Row):
    """One interned call stack, innermost frame first, as "file:line:function" strings."""

    table: ClassVar[str] = "stacks"
    key: ClassVar[str | None] = "stack_id"

    stack_id: int
    rank: int = 0
    frames: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Total(Row):
    """What one module saved in one step: all that the level `summary` keeps of it.

    The sizes are those of `analyses.ledger`: a storage counts whole and once per step, at the
    module that saved it first.
    """

    table: ClassVar[str] = "totals"
    key: ClassVar[str | None] = None

    rank: int = 0
    step: int = 0
    module: str = ""
    saves: int = 0
    logical_bytes: int = 0
    param_bytes: int = 0
    first_bytes: int = 0
    aliased_bytes: int = 0
    unique_bytes: int = 0
    param_storage_bytes: int = 0
    storages: int = 0
    host_copies: int = 0
    host_bytes: int = 0
    peer_bytes: int = 0


@dataclass(slots=True)
class Step(Row):
    """One training step, or one configuration of an ablation (then `name` is its row)."""

    table: ClassVar[str] = "steps"
    key: ClassVar[str | None] = "step"

    step: int
    rank: int = 0
    name: str = ""
    start_ns: int = 0
    forward_end_ns: int | None = None
    end_ns: int | None = None
    peak_bytes: int | None = None
    rss_peak_bytes: int | None = None


Record = Save | Storage | Transfer | Node | Edge | MemorySample | Module | Stack | Total | Step
RECORDS: tuple[type[Record], ...] = (
    Save, Storage, Transfer, Node, Edge, MemorySample, Module, Stack, Total, Step,
)  # fmt: skip
