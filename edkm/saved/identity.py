"""Which storage is this, is it still alive, and was it written to since?

Contract: a storage is known by a weak reference to it, so that memory handed out again to a new
tensor is never taken for the old one; addresses are never compared.
Boundary: holds no tensor data. Writes through `.data`, NumPy or DLPack do not move PyTorch's
version counter and cannot be seen here (nor by autograd's own check).
"""

from __future__ import annotations

import itertools
import threading
import weakref

import torch
from torch import Tensor, UntypedStorage

# Held while a counter is moved and put back (see `VersionProbe.watches`).
_COUNTERS = threading.Lock()


class StorageSerials:
    """A serial number per live storage; it is never given out twice."""

    def __init__(self) -> None:
        self._serials: weakref.WeakKeyDictionary[UntypedStorage, int] = weakref.WeakKeyDictionary()
        self._next = itertools.count(1)

    def of(self, tensor: Tensor) -> int:
        """The serial of the tensor's storage."""
        storage = tensor.untyped_storage()
        serial = self._serials.get(storage)
        if serial is None:
            serial = self._serials[storage] = next(self._next)
        return serial


class VersionProbe:
    """Watches a tensor's version counter without keeping the tensor's memory alive.

    Under saved-tensor hooks PyTorch skips its own check that nothing wrote to a saved tensor.
    A detached alias shares the version counter; giving that alias empty data drops the storage
    and keeps the counter.
    """

    __slots__ = ("_alias", "_family", "version")

    def __init__(self, tensor: Tensor) -> None:
        with _COUNTERS:
            self.version = tensor._version
        self._family = weakref.ref(_base_of(tensor))
        self._alias = tensor.detach()
        self._alias.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)

    @property
    def current(self) -> int:
        """The counter now; it differs from `version` once the tensor was written to."""
        with _COUNTERS:
            return self._alias._version

    @property
    def unchanged(self) -> bool:
        return self.current == self.version

    def watches(self, tensor: Tensor) -> bool:
        """Whether `tensor` is at the watched version of the very same counter.

        Equal numbers are not enough: `x.data` has x's storage and a counter of its own, which may
        stand at the same number after other writes. Views share their base's counter. For other
        aliases (detached ones, saved outputs) the counter is moved and put back, to see whether
        the probe's moves with it.
        """
        if tensor._version != self.version or not self.unchanged:
            return False
        return self._family() is _base_of(tensor) or self._moves_with(tensor)

    def over(self, data: Tensor) -> Tensor:
        """An alias of `data` that counts its writes on the watched counter."""
        alias = self._alias.detach()
        alias.data = data
        return alias

    def _moves_with(self, tensor: Tensor) -> bool:
        move = torch._C._autograd._unsafe_set_version_counter
        with _COUNTERS:
            version = tensor._version
            try:
                move((tensor,), (version + 1,))
                return self._alias._version == version + 1
            finally:
                move((tensor,), (version,))


def _base_of(tensor: Tensor) -> Tensor:
    return tensor._base if tensor._base is not None else tensor
