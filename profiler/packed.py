"""What became of a saved tensor: read from what a pair of hooks returned for it.

Contract: hooks that describe themselves (`edkm.saved`) are believed; of all others the tensors
they hold are looked at. A pair that returns only a key is followed to the dictionary it keeps
the tensor in. Two saves that hold the same bytes of one host tensor share one HostCopy.
Boundary: holds no tensor; host copies are known by weak references to their storages.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, UntypedStorage

from profiler import events
from profiler.hooks import Pack

REPORTED = ("action", "alias_of", "hops", "finder", "host_bytes", "peer_bytes")


class HostCopy:
    """Host memory that one save made; freed when the last save that uses it is."""

    __slots__ = ("__weakref__", "_totals", "own", "peer", "save_id")

    def __init__(self, totals: dict[str, int], save_id: int, own: int, peer: int) -> None:
        self._totals, self.save_id, self.own, self.peer = totals, save_id, own, peer
        totals["host"] += own
        totals["peer"] += peer

    def __del__(self) -> None:
        self._totals["host"] -= self.own
        self._totals["peer"] -= self.peer


class Copies:
    """The live host copies of one owner of hooks: by its own serials, and by where they lie."""

    def __init__(self) -> None:
        self._by_serial: weakref.WeakValueDictionary[int, HostCopy] = weakref.WeakValueDictionary()
        self._by_place: weakref.WeakKeyDictionary[
            UntypedStorage, weakref.WeakValueDictionary[tuple[int, int], HostCopy]
        ] = weakref.WeakKeyDictionary()

    def get(self, serial: int | None) -> HostCopy | None:
        return self._by_serial.get(serial) if serial is not None else None

    def put(self, serial: int, copy: HostCopy) -> None:
        self._by_serial[serial] = copy

    def at(self, tensor: Tensor) -> HostCopy | None:
        """The live copy that lies where this host tensor does."""
        places = self._by_place.get(tensor.untyped_storage())
        return None if places is None else places.get(_place(tensor))

    def put_at(self, tensor: Tensor, copy: HostCopy) -> None:
        places = self._by_place.setdefault(tensor.untyped_storage(), weakref.WeakValueDictionary())
        places[_place(tensor)] = copy


def _place(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.storage_offset()) * tensor.element_size(), tensor.nbytes


def describe(
    row: events.Save,
    tensor: Tensor,
    packed: Any,
    pack: Pack,
    copies: Copies,
    totals: dict[str, int],
) -> HostCopy | None:
    """Fill in what became of the tensor; the host copy it uses, if any."""
    if not all(hasattr(packed, name) for name in REPORTED):
        return _describe_foreign(row, tensor, packed, pack, copies, totals)
    for name in REPORTED:
        setattr(row, name, getattr(packed, name))
    origin = copies.get(packed.alias_of)
    row.alias_of = origin.save_id if origin is not None else None
    if origin is None and (row.host_bytes or row.peer_bytes):
        origin = HostCopy(totals, row.save_id, row.host_bytes, row.peer_bytes)
        copies.put(packed.serial, origin)
    return origin


def _describe_foreign(
    row: events.Save,
    tensor: Tensor,
    packed: Any,
    pack: Pack,
    copies: Copies,
    totals: dict[str, int],
) -> HostCopy | None:
    """Hooks that do not describe themselves: look at the tensors they hold."""
    found = list(tensors_in(packed)) or list(_behind_key(packed, pack))
    storage = tensor.untyped_storage()
    if any(t.untyped_storage() is storage for t in found):
        return None
    on_host = [t for t in found if t.device.type == "cpu"]
    row.action = "copied" if found else "rebuilt"  # nothing held: it will be computed again
    if not on_host:
        return None
    if (shared := copies.at(on_host[0])) is not None:
        row.action, row.alias_of = "alias", shared.save_id
        return shared
    row.host_bytes = sum(t.nbytes for t in on_host)
    copy = HostCopy(totals, row.save_id, row.host_bytes, 0)
    copies.put_at(on_host[0], copy)
    return copy


def tensors_in(packed: Any) -> Iterable[Tensor]:
    """The tensors that a foreign pair of hooks holds."""
    if isinstance(packed, Tensor):
        yield packed
    elif isinstance(packed, tuple | list):
        for item in packed:
            yield from tensors_in(item)


def _behind_key(packed: Any, pack: Pack) -> Iterable[Tensor]:
    """What lies under a number or name in a dictionary of the hook's owner or closure."""
    if not isinstance(packed, int | str):
        return
    owners = [getattr(pack, "__self__", None)]
    if isinstance(pack, FunctionType) and pack.__closure__:
        owners += [cell.cell_contents for cell in pack.__closure__ if _filled(cell)]
    for owner in owners:
        held = owner if isinstance(owner, dict) else getattr(owner, "__dict__", {})
        for place in (held, *held.values()):
            if isinstance(place, dict) and packed in place:
                yield from tensors_in(place[packed])
                return


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that is not assigned yet
        return False
