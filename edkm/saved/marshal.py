"""M, marshaling: is this tensor on the host already, or a few hops from something that is?

Contract: `find` answers only with a record from which the tensor follows exactly. Two finders:
live storage identity (the tensor is a view of bytes that were copied), and a walk of at most
`hops` operations back through the autograd graph (views and cheap operations are replayed), to
what the host has or to a parameter. On a CPU-only machine what would be computed is compared with
the tensor, bit by bit; elsewhere that would make the host wait, and the graph's word is taken.
Boundary: holds records weakly and tensors not at all. Keys are weak references to storages and
the autograd nodes themselves, never addresses.
Source: eDKM (arXiv 2309.00964) sec. 2.1.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, UntypedStorage

from edkm.saved.layout import Layout, same_bits
from edkm.saved.recipe import Entry, Finder, Found, Origin, Recipe
from edkm.saved.record import HostRecord
from edkm.saved.replay import Step, leaf_of, step_of

FINDERS: tuple[Finder, ...] = ("storage", "graph")

# The record of a parameter, given it and the node that computed from it, where nothing wrote to it.
Source = Callable[[Tensor, Any], HostRecord | None]


def no_source(leaf: Tensor, node: Any) -> None:
    """No parameter is to be rebuilt from."""


class Registry:
    """What is on the host, by storage and by autograd output.

    Args:
        hops: longest walk through the graph, in operations; the paper needs 4.
        finders: which finders may answer.
        kinds: operations that may be replayed, see `edkm.saved.replay.KINDS`.
    """

    def __init__(
        self,
        hops: int,
        finders: tuple[str, ...] = FINDERS,
        kinds: Collection[str] = ("view", "clamp"),
    ) -> None:
        self._hops = hops
        self._finders = finders
        self._kinds = frozenset(kinds)
        self._by_storage: weakref.WeakKeyDictionary[UntypedStorage, list[Entry]] = (
            weakref.WeakKeyDictionary()
        )

    def find(self, tensor: Tensor, layout: Layout, source: Source = no_source) -> Found | None:
        """How to have `tensor` from what the host holds or `source` gives, or None."""
        found = self._find(tensor, layout, source)
        return found if found is not None and _agrees(found.recipe, tensor) else None

    def _find(self, tensor: Tensor, layout: Layout, source: Source) -> Found | None:
        walked = self._walk(tensor, layout, source)
        if "storage" in self._finders:
            found = self._of_storage(tensor, layout)
            # A walk that ends at the same bytes tells how far they are; where both would have to
            # compute, the walk's way is the shorter one.
            if found is not None and not (walked and found[1].steps):
                return Found(found[1], "storage", walked.hops if walked else None)
        return walked if "graph" in self._finders else None

    def add(self, tensor: Tensor, recipe: Recipe, hops: int = 0) -> None:
        """Remember that `tensor` can be had by `recipe`, `hops` operations from its record."""
        entry = Entry.of(tensor, recipe, hops)
        if recipe.steps or recipe.record.layout == recipe.layout:
            self._by_storage.setdefault(tensor.untyped_storage(), []).append(entry)
        if tensor.grad_fn is not None:
            _notes(tensor.grad_fn).setdefault(self, {})[tensor.output_nr] = entry

    def add_source(self, node: Any, recipe: Recipe) -> None:
        """Remember that what `node` converted from, if it does, is what `recipe`'s record holds."""
        step = step_of(node)
        earlier, output = node.next_functions[0]
        if step is not None and not step.view and leaf_of(earlier) is None:
            origin = Origin(weakref.ref(recipe.record), recipe.source)
            _notes(earlier).setdefault(self, {})[output] = origin

    def parts(self, tensor: Tensor, layout: Layout) -> list[HostRecord]:
        """Records of parts of the tensor's bytes, apart from each other, the first one first."""
        entries = self._by_storage.get(tensor.untyped_storage(), [])
        if layout.has_gaps or "view" not in self._kinds or "storage" not in self._finders:
            return []
        alive = [e for e in entries if not e.steps and e.alive and e.probe.watches(tensor)]
        records = {id(r): r for r in (e.record() for e in alive) if r is not None}.values()
        place, last = layout.span
        found = []
        for record in sorted(records, key=lambda r: (r.layout.span[0], -r.layout.span[1])):
            start, stop = record.layout.span
            if place <= start and stop <= last and not record.layout.has_gaps:
                found.append(record)
                place = stop
        return found

    def _of_storage(self, tensor: Tensor, layout: Layout) -> tuple[Entry, Recipe] | None:
        """An entry that has the bytes of `tensor` as they are now, and the recipe from it."""
        entries = self._by_storage.get(tensor.untyped_storage())
        if entries is None:
            return None
        entries[:] = [e for e in entries if e.alive]
        for entry in entries:
            recipe = entry.recipe(layout) if entry.probe.watches(tensor) else None
            if recipe is not None and self._allows(recipe):
                return entry, recipe
        return None

    def _allows(self, recipe: Recipe) -> bool:
        return recipe.kind != "view" or "view" in self._kinds

    def _walk(self, tensor: Tensor, layout: Layout, source: Source) -> Found | None:
        """Follow the tensor's history back to something the host has."""
        node, output = tensor.grad_fn, tensor.output_nr
        if node is None:  # no history: the storage is all there is to go by
            found = self._of_storage(tensor, layout)
            return Found(found[1], "graph", found[0].hops) if found else None
        steps: list[Step] = []
        computed: Any = None  # the node of the one step that is no view
        while node is not None:
            entry = self._entry_at(node, output)
            if entry is not None:
                recipe = _recipe(entry, tensor, layout, tuple(reversed(steps)))
                if recipe is None or not self._allows(recipe):
                    return None
                return Found(recipe, "graph", entry.hops + len(steps))
            leaf = leaf_of(node)
            if computed is not None and leaf is not None:
                record = source(leaf, computed)
                recipe = _from_leaf(record, tensor, layout, tuple(reversed(steps)))
                return Found(recipe, "graph", len(steps)) if recipe is not None else None
            step = step_of(node)
            if step is None or step.name not in self._kinds or len(steps) == self._hops:
                return None
            if not step.view and not all(s.view for s in steps):
                return None  # what lies between two computed values was never looked at
            computed = computed if step.view else node
            steps.append(step)
            node, output = node.next_functions[0]
        return None

    def _entry_at(self, node: Any, output: int) -> Entry | Origin | None:
        """What is known of the tensor that `node` computed as its output number `output`."""
        leaf = leaf_of(node)
        if leaf is not None:  # a leaf has no operation: look for its own copy
            found = self._of_storage(leaf, Layout.of(leaf)) if leaf.numel() else None
            return Entry.of(leaf, found[1], found[0].hops) if found else None
        entry: Entry | Origin | None = _notes(node).get(self, {}).get(output)
        return entry if entry is not None and entry.alive else None


def _notes(node: Any) -> dict[Any, Any]:
    """A node's own dictionary: it lives and dies with the node, so that nothing is keyed by an
    address, or by a sequence number that another thread could repeat."""
    notes: dict[Any, Any] = node.metadata
    return notes


def _agrees(recipe: Recipe, tensor: Tensor) -> bool:
    """Whether what is to be computed gives the tensor, as far as that can be seen at once."""
    if not recipe.steps or tensor.device.type != "cpu":
        return True
    flat = recipe.record.peek()
    return flat is None or same_bits(recipe.build(flat), tensor)


def _from_leaf(
    record: HostRecord | None, tensor: Tensor, layout: Layout, steps: tuple[Step, ...]
) -> Recipe | None:
    """The recipe of what was computed from a parameter and not written to since, or None."""
    if record is None or tensor._version != 0:
        return None
    recipe = Recipe(record, record.layout, layout, steps)
    return recipe if recipe.gives() else None


def _recipe(
    entry: Entry | Origin, tensor: Tensor, layout: Layout, steps: tuple[Step, ...]
) -> Recipe | None:
    """The entry's recipe, then `steps`; None where that would not give exactly the tensor."""
    if isinstance(entry, Origin):
        return entry.recipe(tensor, layout, steps)
    record = entry.record()
    if record is None:
        return None
    if all(step.view for step in steps):
        # The tensor's bytes are the entry's, so they must be the same storage, at one version.
        # (A swap of `.data` leaves the history and changes the storage.)
        if entry.storage() is not tensor.untyped_storage() or not entry.probe.watches(tensor):
            return None
        direct = entry.recipe(layout)
        if direct is not None:
            return direct
    elif entry.probe.version != 0 or tensor._version != 0:
        # A step computed new bytes. It is only known to have read what the host has, and the
        # tensor to be still what it wrote, if nothing was ever written to either.
        return None
    recipe = Recipe(record, entry.source, layout, entry.steps + steps)
    return recipe if recipe.gives() else None
