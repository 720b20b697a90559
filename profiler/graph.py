"""The autograd graph: walked once from its roots, kept as rows, given back as a networkx graph.

Contract: nodes are known by their autograd sequence number; leaves (AccumulateGrad, which share
one number) get negative serials. Edges point forward: from the node that made a tensor to the
node that consumed it.
Boundary: reads no saved tensor (that would unpack it) and keeps no node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import torch

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
    nodes = Nodes([], [], [], [], [])
    arrows: list[tuple[Any, int, int]] = []
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node in numbers:
            continue
        number = int(node._sequence_nr())
        if number < 0 or number >= _LEAF_SEQUENCE:
            number = -1 - len(numbers)
        numbers[node] = number
        leaf = getattr(node, "variable", None) if number < 0 else None
        nodes.seq.append(number)
        nodes.name.append(_plain(node.name()))
        nodes.module.append("" if leaf is None else name_of(leaf))
        shape, dtype = _output(node) if leaf is None else (leaf.shape, leaf.dtype)
        nodes.shape.append(shape)
        nodes.dtype.append(dtype_name(dtype))
        for parent, output in node.next_functions:
            if parent is not None:
                waiting.append(parent)
                arrows.append((parent, number, output))
    edges = Edges(
        [numbers[parent] for parent, _, _ in arrows],
        [target for _, target, _ in arrows],
        [output for _, _, output in arrows],
    )
    return nodes, edges


def names_of(roots: Iterable[Any]) -> dict[int, str]:
    """Names of the nodes reachable from `roots`, by sequence number."""
    nodes, _ = walk(roots)
    return dict(zip(nodes.seq, nodes.name, strict=True))


def _output(node: Any) -> tuple[Sequence[int], Any]:
    """Shape and type of a node's first output."""
    metadata = getattr(node, "_input_metadata", None)
    if not metadata:
        return (), ""
    first = metadata[0]
    try:
        return tuple(map(int, first.shape)), first.dtype
    except (RuntimeError, TypeError):  # nested and symbolic shapes have no numbers
        return (), first.dtype


@functools.cache
def dtype_name(dtype: torch.dtype | str) -> str:
    """The type's name as in rows, e.g. "float32"."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _plain(name: str) -> str:
    return name.rpartition("::")[2]


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
