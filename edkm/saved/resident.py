"""What a model holds on the device anyway: parameters and buffers. It is never copied.

Contract: `Residents` knows their storages weakly, so that a view, transpose or detached alias of
one is known as such. What a cheap operation computed from a parameter (autocast's 16-bit copy of
a weight) is rebuilt from the parameter, which `Residents.source` gives only where the operation is
known to have read the bytes that are there now; backward asks again.
Boundary: knows storages, versions and autograd's numbers; which operations are cheap is `replay`'s.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from edkm.saved.host import HostMemory, Report
from edkm.saved.identity import VersionProbe
from edkm.saved.layout import Layout, as_flat
from edkm.saved.record import HostRecord
from edkm.saved.shard import Learners

_sequence_number = torch._C._autograd._get_sequence_nr


class ResidentRecord(HostRecord):
    """The bytes of a parameter, where they are. Holds it weakly: the model keeps it."""

    def __init__(self, leaf: Tensor, learners: Learners, memory: HostMemory) -> None:
        super().__init__(None, Layout.of(leaf), learners, memory)
        self._leaf = weakref.ref(leaf)
        self._storage = weakref.ref(leaf.untyped_storage())
        self._probe = VersionProbe(leaf)

    def changed(self) -> str | None:
        name = f"a parameter, {list(self.layout.size)} {self.layout.dtype}, that"
        leaf, storage = self._leaf(), self._storage()
        if leaf is None:
            return f"{name} is gone"
        moved = storage is None or leaf.untyped_storage() is not storage
        if moved or leaf.untyped_storage().nbytes() < self.layout.span[1]:
            return f"{name} lies in other memory now than when it was read"
        if not self._probe.unchanged:
            return (
                f"{name} was at version {self._probe.version} when it was read and is at version "
                f"{self._probe.current} now"
            )
        return None

    def materialize(self, report: Report) -> Tensor:
        return self._rebuild(report)

    def peek(self) -> Tensor | None:
        storage = self._storage()
        return None if storage is None else as_flat(storage)

    def _rebuild(self, report: Report) -> Tensor:
        storage = self._storage()
        assert storage is not None, "backward asks `changed` first"
        return as_flat(storage)


@dataclass(slots=True)
class _Seen:
    """A parameter as it was when the context was entered."""

    leaf: weakref.ref[Tensor]
    storage: weakref.ref[UntypedStorage]
    version: int
    record: ResidentRecord | None = None


@dataclass(slots=True)
class _Entered:
    """One thread's last entering: autograd's number then, and the parameters, by `id`."""

    number: int = 0
    seen: dict[int, _Seen] = field(default_factory=dict)


class Residents:
    """Storages that are on the device whatever autograd saves."""

    def __init__(self, root: nn.Module | None) -> None:
        self._root = root
        self._storages: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()
        self._local = threading.local()  # autograd numbers its nodes per thread

    def refresh(self) -> None:
        """Look again at what the model holds now (it may have been moved or resized)."""
        entered = self._local.entered = _Entered(_sequence_number())
        if self._root is None:
            return
        for tensor in (*self._root.parameters(), *self._root.buffers()):
            if type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                self._storages.add(storage)
                if tensor.requires_grad and tensor.is_leaf and tensor.storage_offset() == 0:
                    entered.seen[id(tensor)] = _Seen(
                        weakref.ref(tensor), weakref.ref(storage), tensor._version
                    )
        if _is_sharded(self._root):  # gathered anew for backward, with the old version number
            entered.seen.clear()

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in the storage of a parameter or buffer.

        A parameter that is not the model's (FSDP makes unsharded ones for a while) is known by
        its type the first time it is saved, and by its storage from then on.
        """
        storage = tensor.untyped_storage()
        base = tensor._base if tensor._base is not None else tensor
        if isinstance(base, nn.Parameter):
            self._storages.add(storage)
            return True
        return storage in self._storages

    def source(
        self, leaf: Tensor, node: Any, learners: Learners, memory: HostMemory
    ) -> ResidentRecord | None:
        """The record of a parameter from which `node` computed; None where it may have changed.

        Autograd's numbers say that `node` was made after the context was entered, and the version
        that nothing wrote to the parameter since then.
        """
        entered: _Entered = self._local.__dict__.get("entered", _Entered())
        seen = entered.seen.get(id(leaf))
        if seen is None or seen.leaf() is not leaf:
            return None
        recent = entered.number <= int(node._sequence_nr()) < _sequence_number()
        same_place = leaf.untyped_storage() is seen.storage()
        if not (recent and same_place and leaf._version == seen.version):
            return None
        if seen.record is None:
            seen.record = ResidentRecord(leaf, learners, memory)
        return seen.record


def _is_sharded(root: nn.Module) -> bool:
    """Whether FSDP2 manages some of its parameters (it makes the class of a module its own)."""
    kinds = {type(module) for module in root.modules()}
    return any(c.__name__ == "FSDPModule" for kind in kinds for c in kind.__mro__)
