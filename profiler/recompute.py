"""Which autograd node a recomputed save belongs to.

Contract: fills in `op` of rows in phase "recompute" that have none. The graph of a recomputation
hangs on no root of backward, so its nodes cannot be met by walking; but it repeats the saves of
its forward in their order, and those rows have their nodes' names.
Boundary: reads and changes rows; knows nothing of checkpointing's own data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from profiler.events import Save

_Likeness = tuple[str, str, bool, tuple[int, ...]]


def name_recomputed(rows: Sequence[Save]) -> None:
    """Give the n-th recomputed save the node of the n-th save like it that the forward left out.

    Alike are saves of one module with the same shape and dtype. Where a region is recomputed more
    than once (nested checkpoints), counting begins again.
    """
    nameless = [row for row in rows if row.phase == "recompute" and not row.op]
    if not nameless:
        return
    forward: defaultdict[_Likeness, list[str]] = defaultdict(list)
    for row in rows:
        if row.phase != "recompute" and row.action == "rebuilt":
            forward[_likeness(row)].append(row.op)
    met: Counter[_Likeness] = Counter()
    for row in rows:
        if row.phase == "recompute":
            like = _likeness(row)
            names = forward.get(like)
            if names and not row.op:
                row.op = names[met[like] % len(names)]
            met[like] += 1


def _likeness(row: Save) -> _Likeness:
    return row.module, row.dtype, row.is_param, tuple(row.shape)
