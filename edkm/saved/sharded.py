"""S in training: each rank keeps 1/L of what all ranks save alike; what differs is left alone.

Contract: gradients are bit-equal to those without it. A tensor is shared out only after a checksum
said that every rank of the group has the same bytes: what clustering saves of a gathered weight
(counts, tables, maps, the clustered weight), and not the activations of a rank's own sequences.
Boundary: decides what is alike; shards are `edkm.saved.shard`'s, and what differs is `rest`'s.
Source: eDKM (arXiv 2309.00964) sec. 2.3, whose learners share out the index lists.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edkm.saved.handle import SavedHandle
from edkm.saved.layout import Layout, flat_bytes, gather
from edkm.saved.ledger import Ledger
from edkm.saved.modules import ModuleNames
from edkm.saved.policy import SavedTensorPolicy
from edkm.saved.resident import Residents
from edkm.saved.shard import GroupLearners
from edkm.saved.uniquify import Uniquifier

Kind = tuple[str, torch.dtype, bool]  # running module, dtype, whether it needs a gradient
Save = tuple[Kind, int]  # and its number among those of one forward


class ShardedSaves(SavedTensorPolicy):
    """Share out over a process group what its ranks save alike.

    Enter it around each forward, on every rank; backward is collective, in or out of the context.
    The ranks must run the same operations in the same order, of tensors of any sizes. In the first
    forward every save is compared (a pass over it and a small collective each); later ones compare
    only what was alike then, and what is new. Forward on one thread.

    Args:
        module: the model. Its parameters and buffers stay, FSDP2's gathered weights too, and
            errors name its modules. None: only parameters stay.
        group: the process group; None is the default group.
        rest: takes what differs between ranks, for example `offload(module)`; it is entered with
            this one. None: that stays where it is.
        uniquify: keep N x K maps of a 16-bit weight as a table and this rank's part of the list.
        min_bytes: tensors whose storage is smaller are the rest's.
        ledger: accounts of what is shared out; a fresh one where None.

    Raises:
        RuntimeError: no process group is initialised.
        ValueError: min_bytes negative.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        *,
        group: dist.ProcessGroup | None = None,
        rest: SavedTensorPolicy | None = None,
        uniquify: bool = True,
        min_bytes: int = 1024,
        ledger: Ledger | None = None,
    ) -> None:
        self._group = _Agreed(group)
        # held: what several operations saved is gathered once, not for each of them
        super().__init__(shard=self._group, min_bytes=min_bytes, ledger=ledger, hold=True)
        self.name = "sharded"
        self._uniquify = uniquify
        self._rest = rest
        self._names = ModuleNames(module)
        self._residents = Residents(module)
        self._alike: dict[Save, bool] = {}  # as first seen
        self._numbers: Counter[Kind] = Counter()

    @contextlib.contextmanager
    def _around(self) -> Iterator[None]:
        if not self._entered:
            self._numbers.clear()
            # anew: FSDP2 writes a storage's next weights behind its version counter's back
            self._uniquifier = Uniquifier() if self._uniquify else None
        self._residents.refresh()
        with self._rest or contextlib.nullcontext(), self._names.followed():
            yield

    def _takes(self, tensor: Tensor) -> bool:
        return super()._takes(tensor) and not self._residents.holds(tensor)

    def _kept(self, serial: int, tensor: Tensor) -> SavedHandle:
        return super()._kept(serial, tensor) if self._rest is None else self._rest.pack(tensor)

    def _copied(self, serial: int, tensor: Tensor, layout: Layout) -> SavedHandle:
        if not self._is_alike(tensor, layout):
            return self._kept(serial, tensor)
        return super()._copied(serial, tensor, layout)

    def _is_alike(self, tensor: Tensor, layout: Layout) -> bool:
        """Whether every rank saves these bytes now. Collective, but for what once differed.

        What is asked of all ranks depends on modules and dtypes only, which they have in common.
        """
        kind = (self._module() or "", tensor.dtype, tensor.requires_grad)
        save = (kind, self._numbers[kind])
        self._numbers[kind] += 1
        if self._group.count == 1 or not self._alike.get(save, True):
            return False
        flat = gather(tensor, layout) if layout.has_gaps else flat_bytes(tensor, layout)
        alike = not self._group.differing(flat)
        self._alike.setdefault(save, alike)
        return alike

    def _module(self) -> str | None:
        running = self._names.running
        return running[-1] if running else None


class _Agreed(GroupLearners):
    """Learners of what was compared already; they still compare what backward asks for."""

    def _check_equal(self, flat: Tensor) -> None:
        """It is known."""
