"""S, sharding: each of L learners keeps 1/L of the rows and gathers the rest in backward.

Contract: `Learners.keep` splits bytes by whole rows (the first learners take one row more where
they do not divide) and `Learners.gather` gives back exactly what was kept. Only tensors that are
equal on every learner may be sharded, as the weights of data-parallel learners and everything
computed from them are; `GroupLearners` checks that and refuses otherwise.
Boundary: knows bytes and rows, neither tables nor graphs. Source: eDKM (arXiv 2309.00964) sec. 2.3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from edkm.saved.host import HostBuffer, HostMemory, Report

_CHUNK = 1 << 20  # words mixed in one go: bounds temporaries to 24 MiB


@dataclass(frozen=True, slots=True)
class Shards:
    """What is kept of one byte string: this learner's buffer first, simulated peers' after it."""

    buffers: tuple[HostBuffer, ...]
    lengths: tuple[int, ...]  # bytes of every learner's shard, in rank order
    serial: int  # number of the keeping, equal on every rank

    @property
    def own_bytes(self) -> int:
        return sum(b.nbytes for b in self.buffers if not b.peer)

    @property
    def peer_bytes(self) -> int:
        return sum(b.nbytes for b in self.buffers if b.peer)


def shard_lengths(rows: int, learners: int, row_bytes: int) -> tuple[int, ...]:
    """Bytes of each learner's share of `rows` rows; shares differ by at most one row."""
    share, extra = divmod(rows, learners)
    return tuple((share + (rank < extra)) * row_bytes for rank in range(learners))


class Learners(ABC):
    """The learners that share the work of remembering."""

    simulated: bool

    def __init__(self, count: int, rank: int) -> None:
        self.count = count
        self.rank = rank
        self._kept = 0

    def keep(self, flat: Tensor, row_bytes: int, memory: HostMemory, report: Report) -> Shards:
        """Keep this learner's rows of `flat` (1-D uint8) on the host."""
        unit = row_bytes if row_bytes and flat.numel() % row_bytes == 0 else 1
        lengths = shard_lengths(flat.numel() // unit, self.count, unit)
        buffers = self._buffers(flat, lengths, memory, report)
        self._kept += 1
        return Shards(buffers, lengths, self._kept)

    @abstractmethod
    def _buffers(
        self, flat: Tensor, lengths: tuple[int, ...], memory: HostMemory, report: Report
    ) -> tuple[HostBuffer, ...]: ...

    @abstractmethod
    def gather(self, shards: Shards, memory: HostMemory, report: Report) -> Tensor:
        """All rows again, as 1-D uint8 on the device. Collective: every learner must call it."""


class SimulatedLearners(Learners):
    """L learners in one process: the other shards are held too, accounted as the peers'.

    With one learner nothing is sharded, so it also serves as "no sharding".

    Raises:
        ValueError: the count is not a positive integer.
    """

    simulated = True

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(
                f"learners={count!r}: sharding needs at least one learner; "
                "give 1 to keep everything here, or the number of ranks"
            )
        super().__init__(count, rank=0)

    def _buffers(
        self, flat: Tensor, lengths: tuple[int, ...], memory: HostMemory, report: Report
    ) -> tuple[HostBuffer, ...]:
        parts = torch.split(flat, list(lengths))
        return tuple(
            HostBuffer(part, memory, report, peer=rank > 0) for rank, part in enumerate(parts)
        )

    def gather(self, shards: Shards, memory: HostMemory, report: Report) -> Tensor:
        device = shards.buffers[0].device
        flat = torch.empty(sum(shards.lengths), dtype=torch.uint8, device=device)
        for buffer, part in zip(
            shards.buffers, torch.split(flat, list(shards.lengths)), strict=True
        ):
            buffer.copy_into(part, report)
        memory.ledger.gathered(shards.peer_bytes)
        return flat


class GroupLearners(Learners):
    """The ranks of a real process group (gloo, nccl, ...).

    Args:
        group: the process group; None is the default group.
        check_replicas: compare a checksum across ranks before sharding a tensor, since the rows of
            tensors that differ would be mixed into a wrong gradient, and compare which tensor is
            asked for before gathering. Costs one pass over the tensor and two small collectives.

    Raises:
        RuntimeError: no process group is initialised; or, on every rank, a tensor differs between
            the ranks, or they ask for tensors in different orders.
    """

    simulated = False

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, check_replicas: bool = True
    ) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "GroupLearners: no process group is initialised; call "
                "torch.distributed.init_process_group first, or simulate with SimulatedLearners(n)"
            )
        super().__init__(dist.get_world_size(group), dist.get_rank(group))
        self.group = group
        self.check_replicas = check_replicas

    def _buffers(
        self, flat: Tensor, lengths: tuple[int, ...], memory: HostMemory, report: Report
    ) -> tuple[HostBuffer, ...]:
        if self.check_replicas:
            self._check_equal(flat)
        start = sum(lengths[: self.rank])
        return (HostBuffer(flat[start : start + lengths[self.rank]], memory, report),)

    def gather(self, shards: Shards, memory: HostMemory, report: Report) -> Tensor:
        (own,) = shards.buffers
        device = self._meeting_place(own.device)
        longest = max(shards.lengths)
        if self.check_replicas:
            self._check_same_order(shards, device)
        padded = torch.zeros(longest, dtype=torch.uint8, device=own.device)
        own.copy_into(padded[: own.nbytes], report)
        parts = torch.empty(self.count, longest, dtype=torch.uint8, device=device)
        dist.all_gather(list(parts), padded.to(device), group=self.group)
        memory.ledger.gathered(sum(shards.lengths) - own.nbytes)
        rows = [part[:n] for part, n in zip(parts, shards.lengths, strict=True)]
        return torch.cat(rows).to(own.device)

    def _check_same_order(self, shards: Shards, device: torch.device) -> None:
        """Every rank must ask for the same tensor; else the rows of two would be mixed."""
        mine = torch.tensor([shards.serial, sum(shards.lengths)], device=device)
        asked = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(asked, mine, group=self.group)
        if any(not torch.equal(other, asked[0]) for other in asked):
            raise RuntimeError(
                "sharding: the ranks ask for different saved tensors (number, bytes): "
                f"{[other.tolist() for other in asked]}; backward must run the same operations in "
                "the same order on every rank"
            )

    def _meeting_place(self, device: torch.device) -> torch.device:
        """Where the group's backend can exchange tensors of `device`."""
        return device if dist.get_backend(self.group) == "nccl" else torch.device("cpu")

    def differing(self, flat: Tensor) -> list[int]:
        """The ranks whose 1-D uint8 `flat` is not rank 0's, by a checksum. Collective."""
        mine = _checksum(flat).to(self._meeting_place(flat.device))
        all_sums = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(all_sums, mine, group=self.group)
        return [r for r, other in enumerate(all_sums) if not torch.equal(other, all_sums[0])]

    def _check_equal(self, flat: Tensor) -> None:
        differing = self.differing(flat)
        if differing:
            raise RuntimeError(
                f"sharding: a saved tensor of {flat.numel()} bytes differs between rank 0 and "
                f"rank(s) {differing}; only tensors equal on every rank can be sharded. Enter the "
                "policy around the clustering of replicated weights, not around the whole model; "
                "or use ShardedSaves, which leaves alone what differs"
            )


def _checksum(flat: Tensor) -> Tensor:
    """Length and a sum of mixed words, as int64 (wrapping): equal bytes give equal sums.

    Every word is mixed with its position before it is added, so that neither an exchange of words
    nor two changes that cancel out go unseen. The mixing is the finalizer of SplitMix64.
    """
    words = _words(flat)
    total = torch.zeros(2, dtype=torch.int64, device=flat.device)
    total[0] = flat.numel()
    for number, part in enumerate(torch.split(words, _CHUNK)):
        start = number * _CHUNK
        mixed = torch.arange(start, start + part.numel(), device=flat.device)
        mixed.mul_(_signed(0x9E3779B97F4A7C15)).add_(part)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed.bitwise_xor_(mixed >> shift).mul_(_signed(factor))
        total[1] += mixed.bitwise_xor_(mixed >> 31).sum()
    return total


def _words(flat: Tensor) -> Tensor:
    """The bytes as int64, the last word filled up with zeros (a view where they lie well)."""
    rest = -flat.numel() % 8
    if rest or flat.storage_offset() % 8:
        flat = torch.cat([flat, flat.new_zeros(rest)])
    return flat.view(torch.int64)


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed number that torch's integers take."""
    return value - (1 << 64) if value >= 1 << 63 else value
