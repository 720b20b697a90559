"""The autograd graph: walked once from its roots, kept as rows, given back as a networkx graph.

Contract: nodes are known by their autograd sequence number; leaves (AccumulateGrad, which share
one number) get negative serials. Edges point forward: from the node that made a tensor to the
node that consumed it.
Boundary: reads no saved tensor (that would unpack it) and keeps no node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import torch

from profiler.events import OUTSIDE, Save

if TYPE_CHECKING:
    from torch import Tensor

    from profiler.query import Run

_LEAF_SEQUENCE = (1 << 63) - 1  # leaves report a number above every real one


class Nodes(NamedTuple):
    """Nodes as columns, which are the columns of the table: a row object each costs too much."""

    seq: list[int]
    name: list[str]
    module: list[str]  # of leaves: the parameter's name
    shape: list[Sequence[int]]
    dtype: list[str]


class Edges(NamedTuple):
    """Edges as columns, as for nodes; there are two to a save."""

    source: list[int]
    target: list[int]
    output: list[int]


def walk(
    roots: Iterable[Any], name_of: Callable[[Tensor], str] = lambda tensor: ""
) -> tuple[Nodes, Edges]:
    """Every node reachable from `roots` (autograd nodes), and the edges between them.

    Args:
        roots: `grad_fn`s; None entries are passed over.
        name_of: the qualified name of a parameter, for leaves.
    """
    numbers: dict[Any, int] = {}
    names: dict[type, str] = {}  # of node types: asking each node costs a microsecond
    nodes = Nodes([], [], [], [], [])
    # Flat, without a tuple an edge: containers by the thousand bring on the garbage collector.
    parents: list[Any] = []
    edges = Edges([], [], [])
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node in numbers:
            continue
        number = node._sequence_nr()
        leaf = None
        if not 0 <= number < _LEAF_SEQUENCE:
            number = -1 - len(numbers)
            leaf = getattr(node, "variable", None)
        numbers[node] = number
        nodes.seq.append(number)
        nodes.name.append(names.get(type(node)) or _name(node, names))
        nodes.module.append("" if leaf is None else name_of(leaf))
        shape, dtype = _output(node) if leaf is None else (leaf.shape, leaf.dtype)
        nodes.shape.append(_numbers(shape))
        nodes.dtype.append(dtype_name(dtype))
        for parent, output in node.next_functions:
            if parent is not None:
                if parent not in numbers:
                    waiting.append(parent)
                parents.append(parent)
                edges.target.append(number)
                edges.output.append(output)
    edges.source.extend(map(numbers.__getitem__, parents))
    return nodes, edges


def join(nodes: Nodes, rows: Iterable[Save], modules: Mapping[int, str]) -> dict[str, list[Any]]:
    """The columns of the nodes with what they saved, and the stack of the first of those saves.

    The rows get the names of their nodes.

    modules: the module of each sequence number; leaves keep their parameter's name.
    """
    place = {number: index for index, number in enumerate(nodes.seq)}
    saved, unique = [0] * len(place), [0] * len(place)
    stacks: list[int | None] = [None] * len(place)
    seen: set[tuple[int, int]] = set()
    for row in rows:
        at = place.get(row.node_seq) if row.node_seq is not None else None
        if at is None:
            continue
        row.op = nodes.name[at]  # written when the save is unpacked, or at the end of the step
        saved[at] += row.logical_bytes
        if stacks[at] is None:
            stacks[at] = row.stack_id
        if (at, row.storage_id) not in seen:
            seen.add((at, row.storage_id))
            unique[at] += row.storage_bytes
    owners = [
        leaf or modules.get(number, OUTSIDE)
        for number, leaf in zip(nodes.seq, nodes.module, strict=True)
    ]
    sums = {"saved_bytes": saved, "saved_unique_bytes": unique}
    return {**nodes._asdict(), "module": owners, "stack_id": stacks, **sums}


def names_of(roots: Iterable[Any]) -> dict[int, str]:
    """Names of the nodes reachable from `roots`, by sequence number."""
    nodes, _ = walk(roots)
    return dict(zip(nodes.seq, nodes.name, strict=True))


def _name(node: Any, names: dict[type, str]) -> str:
    """The node's name, noted for its type; types that stand for several kinds of node are not."""
    kind = type(node)
    custom = issubclass(kind, torch._C._FunctionBase)  # may have set `ctx.name` to anything
    found = kind.__name__ if custom else str(node.name()).rpartition("::")[2]
    if kind.__name__ != "CppFunction":
        names[kind] = found
    return found


def _output(node: Any) -> tuple[Sequence[Any], Any]:
    """Shape and type of a node's first output."""
    metadata = getattr(node, "_input_metadata", None)
    return (metadata[0].shape, metadata[0].dtype) if metadata else ((), "")


def _numbers(shape: Iterable[Any]) -> tuple[int, ...]:
    try:
        return tuple(map(int, shape))
    except (AttributeError, RuntimeError, TypeError):  # nested and symbolic sizes are no numbers
        return ()


@functools.cache
def dtype_name(dtype: torch.dtype | str) -> str:
    """The type's name as in rows, e.g. "float32"."""
    return str(dtype).removeprefix("torch.")


def autograd_graph(run: Run, step: int = 0, rank: int = 0) -> nx.DiGraph[int]:
    """One step's autograd graph.

    Node attributes: name, module, shape, saved_bytes, saved_unique_bytes and `saves`, the list of
    save_ids. Edges carry `output`.
    """
    graph: nx.DiGraph[int] = nx.DiGraph()
    where = "where step = ? and rank = ?"
    for row in run.sql(f"select * from nodes {where}", [step, rank]).to_pylist():
        graph.add_node(row["seq"], **{k: v for k, v in row.items() if k != "seq"}, saves=[])
    for row in run.sql(f"select * from edges {where}", [step, rank]).to_pylist():
        graph.add_edge(row["source"], row["target"], output=row["output"])
    saves = f"select save_id, node_seq from saves {where} and node_seq is not null"
    for row in run.sql(saves, [step, rank]).to_pylist():
        if row["node_seq"] in graph:
            graph.nodes[row["node_seq"]]["saves"].append(row["save_id"])
    return graph
