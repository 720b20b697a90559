"""How to have a saved tensor from bytes that are on the host: lay it over them, then replay.

Contract: `Recipe.build` gives the tensor's values and its exact layout, or the recipe was refused
when it was made (`Recipe.gives`), before anything relied on it.
Boundary: what is on the host is `record`'s business; whether the recipe is true is `marshal`'s.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, UntypedStorage

from edkm.saved.identity import VersionProbe
from edkm.saved.layout import Layout, relay, restore
from edkm.saved.record import HostRecord
from edkm.saved.replay import Step

Finder = Literal["storage", "graph"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Lay `source` over the record's bytes, replay the steps, end with `layout`."""

    record: HostRecord
    source: Layout
    layout: Layout
    steps: tuple[Step, ...] = ()

    @property
    def kind(self) -> str:
        """The most that has to be done: "same", "view", or the last step that computes."""
        for step in reversed(self.steps):
            if not step.view:
                return step.name
        return "same" if self.layout == self.record.layout and not self.steps else "view"

    def build(self, flat: Tensor) -> Tensor:
        """The tensor, from the record's bytes on the device."""
        out = restore(flat, self.record.layout.span[0], self.source)
        for step in self.steps:
            out = step.run(out)
        return relay(out, self.layout) if self.steps else out

    def gives(self) -> bool:
        """Whether the steps end with the layout: replayed on a tensor without memory."""
        source = self.source
        if not self.steps:
            return source == self.layout
        if source.conj or source.neg or self.layout.conj or self.layout.neg:
            return False
        out = torch.empty_strided(source.size, source.stride, dtype=source.dtype, device="meta")
        try:
            for step in self.steps:
                out = step.run(out)
        except RuntimeError:
            return False
        same = out.stride() == self.layout.stride or self.layout.is_dense
        return same and (out.dtype, tuple(out.shape)) == (self.layout.dtype, self.layout.size)


@dataclass(frozen=True, slots=True)
class Found:
    """A recipe, which finder found it, and how many operations lie between (None: not walked)."""

    recipe: Recipe
    finder: Finder
    hops: int | None


# The record was made in the narrow type of an unsaved source, so it is the source as it stands.
_AS_COPIED = Step("upcast", lambda t: t, view=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor that was not saved, and whose values the host has: a wide twin was copied in them.

    Known by the node that computed it, not by its storage: true of what was never written to.
    """

    record: weakref.ref[HostRecord]
    source: Layout
    hops: int = 1

    @property
    def alive(self) -> bool:
        return self.record() is not None

    def recipe(self, tensor: Tensor, layout: Layout, steps: tuple[Step, ...]) -> Recipe | None:
        """How to have `tensor`, a view of the source by `steps`, or None."""
        record = self.record()
        # A view shares the counter of what it views. What was computed does not: the source may
        # have been written to before.
        if record is None or tensor._version != 0 or not all(s.view for s in steps):
            return None
        recipe = Recipe(record, self.source, layout, (_AS_COPIED, *steps))
        return recipe if recipe.gives() else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A saved tensor of which the host has a copy, or which follows from one. Holds it weakly."""

    record: weakref.ref[HostRecord]
    storage: weakref.ref[UntypedStorage]
    probe: VersionProbe
    source: Layout  # layout over the record's bytes, before the steps
    steps: tuple[Step, ...]
    layout: Layout  # layout of the tensor itself, in its own storage
    hops: int  # operations between the tensor and the one the record was made from

    @classmethod
    def of(cls, tensor: Tensor, recipe: Recipe, hops: int) -> Entry:
        return cls(
            weakref.ref(recipe.record),
            weakref.ref(tensor.untyped_storage()),
            VersionProbe(tensor),
            recipe.source,
            recipe.steps,
            recipe.layout,
            hops,
        )

    @property
    def alive(self) -> bool:
        """The record still exists, and nothing wrote to the tensor since it was saved."""
        return self.record() is not None and self.probe.unchanged

    def recipe(self, layout: Layout) -> Recipe | None:
        """How to have a tensor that lies as `layout` in this entry's storage, if that is known."""
        record = self.record()
        if record is None:
            return None
        if not self.steps and record.covers(layout):
            return Recipe(record, layout, layout)
        if self.layout == layout:
            return Recipe(record, self.source, layout, self.steps)
        return None
