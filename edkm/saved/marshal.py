"""M, marshaling: is this tensor on the host already, or a few hops from something that is?

Contract: `find` answers only with a record from which the tensor follows exactly. Two finders:
live storage identity (the tensor is a view of bytes that were copied), and a walk of at most
`hops` operations back through the autograd graph (views and cheap operations are replayed).
Boundary: holds records weakly and tensors not at all. Keys are weak references to storages and
the autograd nodes themselves, never addresses.
Source: eDKM (arXiv 2309.00964) sec. 2.1.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

from torch import Tensor, UntypedStorage

from edkm.saved.layout import Layout
from edkm.saved.recipe import Entry, Finder, Found, Recipe
from edkm.saved.replay import Step, step_of

FINDERS: tuple[Finder, ...] = ("storage", "graph")


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

    def find(self, tensor: Tensor, layout: Layout) -> Found | None:
        """How to have `tensor` from what the host holds, or None."""
        walked = self._walk(tensor, layout)
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

    def _walk(self, tensor: Tensor, layout: Layout) -> Found | None:
        """Follow the tensor's history back to something the host has."""
        node, output = tensor.grad_fn, tensor.output_nr
        if node is None:  # no history: the storage is all there is to go by
            found = self._of_storage(tensor, layout)
            return Found(found[1], "graph", found[0].hops) if found else None
        steps: list[Step] = []
        while node is not None:
            entry = self._entry_at(node, output)
            if entry is not None:
                recipe = _recipe(entry, tensor, layout, tuple(reversed(steps)))
                if recipe is None or not self._allows(recipe):
                    return None
                return Found(recipe, "graph", entry.hops + len(steps))
            step = step_of(node)
            if step is None or step.name not in self._kinds or len(steps) == self._hops:
                return None
            if not step.view and not all(s.view for s in steps):
                return None  # what lies between two computed values was never looked at
            steps.append(step)
            node, output = node.next_functions[0]
        return None

    def _entry_at(self, node: Any, output: int) -> Entry | None:
        """What is known of the tensor that `node` computed as its output number `output`."""
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):  # a leaf has no operation: look for its own copy
            found = self._of_storage(leaf, Layout.of(leaf)) if leaf.numel() else None
            return Entry.of(leaf, found[1], found[0].hops) if found else None
        entry: Entry | None = _notes(node).get(self, {}).get(output)
        return entry if entry is not None and entry.alive else None


def _notes(node: Any) -> dict[Any, Any]:
    """A node's own dictionary: it lives and dies with the node, so that nothing is keyed by an
    address, or by a sequence number that another thread could repeat."""
    notes: dict[Any, Any] = node.metadata
    return notes


def _recipe(entry: Entry, tensor: Tensor, layout: Layout, steps: tuple[Step, ...]) -> Recipe | None:
    """The entry's recipe, then `steps`; None where that would not give exactly the tensor."""
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
