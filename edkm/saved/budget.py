"""Offload only as much as a budget asks, best first: most bytes freed per byte moved.

Contract: the first step is watched while everything is offloaded that the host budget allows;
from the second on the plan made from it decides. A save is recognised by its module and its
number within that module's saves of the step; one that was not there before is offloaded.
Boundary: decides by bytes of a watched step; it measures no time and moves nothing.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

from edkm.saved.handle import SavedHandle
from edkm.saved.identity import StorageSerials

Key = tuple[str, int]  # module name, number of the save within the module


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits in bytes; None is no limit.

    Raises:
        ValueError: a negative limit.
    """

    device: int | None = None
    host: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("device_budget", self.device), ("host_budget", self.host)):
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: bytes cannot be negative; None is no limit")


@dataclass(slots=True)
class Group:
    """Saves that one host copy serves: they leave the device together or not at all."""

    first: int
    keys: list[Key] = field(default_factory=list)
    storages: dict[int, int] = field(default_factory=dict)  # serial -> bytes on the device
    host_bytes: int = 0

    @property
    def freed(self) -> int:
        return sum(self.storages.values())

    @property
    def worth(self) -> float:
        """Bytes freed per byte moved, there and back."""
        return self.freed / max(2 * self.host_bytes, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays, and what the plan comes to, in bytes."""

    kept: frozenset[Key]
    device_bytes: int
    host_bytes: int


def make_plan(groups: list[Group], budget: Budget) -> Plan:
    """Offload groups, best first, until what stays fits the device budget.

    Among equals the earliest: it would stay longest. A group that the host has no room for is
    passed over.
    """
    ranked = sorted(groups, key=lambda g: (-g.worth, g.first))
    staying = sum(g.freed for g in groups)
    host, kept = 0, set[Key]()
    for group in ranked:
        enough = budget.device is not None and staying <= budget.device
        too_much = budget.host is not None and host + group.host_bytes > budget.host
        if enough or too_much:
            kept.update(group.keys)
            continue
        staying -= group.freed
        host += group.host_bytes
    return Plan(frozenset(kept), staying, host)


class Planner:
    """Watches the first step, then says for each save whether it may leave.

    Attributes:
        plan: None until the first step is over, or where there is no budget.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.plan: Plan | None = None
        self._serials = StorageSerials()
        self._seen: Counter[str] = Counter()
        self._key: Key = ("", 0)
        self._no_room = False
        self._groups: dict[int, Group] = {}

    @property
    def _active(self) -> bool:
        return self.budget != Budget()

    def begin(self) -> None:
        """A step starts."""
        self._seen.clear()
        self._groups.clear()

    def end(self) -> None:
        """The step's forward is over: plan, if that has not been done."""
        if not self._active or self.plan is not None or not self._groups:
            return
        self.plan = make_plan(list(self._groups.values()), self.budget)
        limit = self.budget.device
        if limit is not None and self.plan.device_bytes > limit:
            warnings.warn(
                f"device_budget={limit} cannot be met: with all that host_budget="
                f"{self.budget.host} allows offloaded, {self.plan.device_bytes} bytes of saved "
                "tensors stay on the device; raise a budget",
                stacklevel=3,
            )

    def next_save(self, module: str | None) -> None:
        """Another tensor is offered."""
        self._no_room = False
        name = module or ""
        self._key = (name, self._seen[name])
        self._seen[name] += 1

    def takes(self, tensor: Tensor, host_bytes: int) -> bool:
        """Whether it may leave the device, with `host_bytes` on the host already."""
        if self.plan is not None and self._key in self.plan.kept:
            return False
        limit = self.budget.host
        self._no_room = limit is not None and host_bytes + tensor.nbytes > limit
        return not self._no_room

    def saved(self, tensor: Tensor, handle: SavedHandle) -> None:
        """What became of it: remembered during the first step."""
        watching = self._active and self.plan is None
        if not watching or (handle.action == "kept" and not self._no_room):
            return
        storage, count = self._serials.of(tensor), tensor.untyped_storage().nbytes()
        if handle.action != "kept":
            root = handle.serial if handle.alias_of is None else handle.alias_of
            group = self._groups.setdefault(root, Group(handle.serial))
            group.host_bytes += handle.host_bytes
        else:  # it would have gone, whole, had there been room
            group = self._groups.setdefault(-storage, Group(handle.serial, host_bytes=count))
        group.keys.append(self._key)
        group.storages[storage] = count
