"""Three sentences about a step, made from its figures alone.

Contract: every number in a sentence is one that an analysis gave; nothing is said that the run
does not show. Names from the run are escaped.
Boundary: words only, for a Markdown place.
"""

from __future__ import annotations

from dashboard.theme import CATEGORY_NAMES
from dashboard.words import literal
from profiler.analyses.duplicates import Duplicates
from profiler.analyses.ledger import Balance, Ledger
from profiler.reports.units import format_bytes

PARTS = ("param", "optimizer", "grad", "saved", "temp", "unexplained")


def fullest(seen: Ledger) -> Balance | None:
    """The fullest moment over the ranks."""
    return max(seen.balances, key=lambda balance: balance.allocated_bytes, default=None)


def shares(balance: Balance) -> dict[str, int]:
    """Bytes per category of a moment, in the one order; never below zero."""
    return {name: max(0, getattr(balance, f"{name}_bytes")) for name in PARTS}


def sentences(seen: Ledger, found: Duplicates | None) -> list[str]:
    """What held the memory, who saved most, what is repeated."""
    said = []
    if (balance := fullest(seen)) is not None and balance.allocated_bytes:
        said.append(_who_owns(balance))
    if seen.modules and seen.total.unique_bytes:
        said.append(_who_saved(seen))
    if found is not None:
        said.append(_repeated(found))
    return said


def _who_owns(balance: Balance) -> str:
    held = shares(balance)
    name = max(held, key=lambda each: held[each])
    percent = 100 * held[name] / max(1, sum(held.values()))
    host = (
        f", and {format_bytes(balance.host_bytes)} more on the host" if balance.host_bytes else ""
    )
    return (
        f"At its fullest, in {literal(balance.phase)}, the step held "
        f"**{format_bytes(balance.allocated_bytes)}**{host}; the largest part, {percent:.0f} %, "
        f"was **{CATEGORY_NAMES[name]}**."
    )


def _who_saved(seen: Ledger) -> str:
    first = seen.modules[0]
    where = literal(first.module) or "the root module"
    kind = f" ({literal(first.kind)})" if first.kind and first.module else ""
    percent = 100 * first.unique_bytes / seen.total.unique_bytes
    return (
        f"Autograd saved {format_bytes(seen.total.unique_bytes)} of activations in "
        f"{seen.total.storages} storages; the module that saved most itself is **{where}**{kind} "
        f"with {format_bytes(first.unique_bytes)}, {percent:.0f} %."
    )


def _repeated(found: Duplicates) -> str:
    if not found.groups:
        return "Nothing was saved twice: no storage appears in two saved tensors."
    more = (
        f"{format_bytes(found.wasted_bytes)} of host memory was in fact filled again"
        if found.wasted_bytes
        else "an offloader that does not know storages would copy that much again"
    )
    return (
        f"**{len(found.groups)}** storages were saved more than once, "
        f"{format_bytes(found.repeated_bytes)} repeated: {more}."
    )
