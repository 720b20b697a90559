"""Why is it kept?

Contract: the autograd graph of one step in boxes; the chosen box shows the tensors that its nodes
save, and of one of its nodes what is around it.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard.charts.blocks import blocks_option, box_records, chart_height
from dashboard.charts.nearby import nearby_drawing
from dashboard.frame import View, explore, ground, pick_rank
from dashboard.panels.download import offer_data
from dashboard.panels.drawing import show_drawing
from dashboard.tables import counted, mib_columns, mib_value, shape_words, short_op, source_words
from dashboard.words import literal
from profiler.analyses.blocks import EVERY_NODE, Blocks, Box, blocks, saves_between
from profiler.analyses.neighbourhood import neighbourhood, nodes_between
from profiler.reports.units import format_bytes

TITLE = "Why is it kept?"
NODES = 200  # of the chosen box, to choose one from


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "nodes")
    if view is None:
        return
    rank = pick_rank(view)
    seen = view.ask(blocks, rank=rank)
    if not seen.boxes:
        st.info("This step has no autograd graph: backward was not called in it.")
        return
    seen = _detailed(view, rank, seen)
    st.write(
        "Time runs downwards. A box is a run of autograd nodes of one module; larger boxes keep "
        "more for backward. An arrow says whose output is used. Click a box, drag to move."
    )
    event = st.echarts_chart(
        blocks_option(seen, ground()), height=chart_height(seen),
        key=f"boxes-{view.step}-{rank}-{seen.depth}",
        on_select="rerun", alt="The autograd graph as boxes and arrows",
    )  # fmt: skip
    offer_data("graph", lambda: box_records(seen))
    st.caption(
        f"{counted(seen.nodes, 'node')} in {counted(len(seen.boxes), 'box', 'boxes')}; not drawn: "
        f"{counted(seen.leaves, 'leaf', 'leaves')}, where gradients of parameters arrive."
    )
    if len(seen.boxes) > 1 and not seen.links:
        st.caption("No arrow: the edges of this step were not recorded, or their file is damaged.")
    box = _chosen(seen, event)
    _saved(view, rank, box)
    _around(view, rank, box)


def _detailed(view: View, rank: int, seen: Blocks) -> Blocks:
    """The boxes at the detail that the viewer chose."""
    if len(set(seen.depths.values())) < 2:
        return seen
    words = {
        depth: "every node" if depth == EVERY_NODE else f"{depth} deep" for depth in seen.depths
    }
    if st.session_state.get("depth", seen.depth) not in words:
        del st.session_state["depth"]
    chosen = st.segmented_control(
        "Modules", list(words), default=seen.depth, key="depth", bind="query-params", required=True,
        format_func=lambda depth: words.get(depth, str(depth)),
        help="How deep into the modules boxes are told apart. Boxes: "
        + ", ".join(f"{words[depth]} {count}" for depth, count in seen.depths.items()),
    )  # fmt: skip
    if chosen == seen.depth or chosen is None:
        return seen
    return view.ask(blocks, rank=rank, depth=chosen)


def _chosen(seen: Blocks, event: Any) -> Box:
    """The clicked box; the one that keeps most where none is."""
    for group in event.selection.selected if event else []:
        if group["data_type"] == "node":
            clicked: list[Box] = [
                seen.boxes[i] for i in group["data_indices"] if i < len(seen.boxes)
            ]
            if clicked:
                return clicked[0]
    return max(seen.boxes, key=lambda box: (box.unique_bytes, box.saved_bytes))


def _saved(view: View, rank: int, box: Box) -> None:
    where = literal(box.module) or "(root)"
    st.subheader(f"Saved by {literal(', '.join(box.operations))}")
    st.write(
        f"{where}, {counted(box.nodes, 'node')}: {counted(box.saves, 'saved tensor')}, "
        f"{format_bytes(box.saved_bytes)}, of them "
        f"{format_bytes(box.unique_bytes)} in storages that nothing saved before."
    )
    if not box.saves:
        return
    found = view.ask(saves_between, box.first_seq, box.last_seq, rank=rank)
    _table(found, "The tensors that the chosen nodes save")
    if box.saves > len(found):
        size = format_bytes(box.saved_bytes - sum(row["logical_bytes"] for row in found))
        st.caption(f"{box.saves - len(found)} smaller items, {size}.")


def _table(found: list[dict[str, Any]], alt: str) -> None:
    rows = [
        {
            "operation": short_op(row["op"]),
            "module": row["module"] or "(root)",
            "line": source_words(row["source"]),
            "MiB": mib_value(row["logical_bytes"]),
            "shape": shape_words(row["shape"]),
            "dtype": row["dtype"],
            "what": "parameter" if row["is_param"] else "activation",
            "action": row["action"],
            "storage": row["storage_id"],
        }
        for row in found
    ]
    st.dataframe(rows, hide_index=True, alt=alt, column_config=mib_columns(rows, ("MiB",)))


def _around(view: View, rank: int, box: Box) -> None:
    """One node of the box: whose outputs it uses, who uses its own, and what it saves."""
    nodes = view.ask(nodes_between, box.first_seq, box.last_seq, rank=rank, limit=NODES)
    numbers = {
        f"{short_op(row['name'])}, {row['module'] or '(root)'} (number {row['seq']})": row["seq"]
        for row in nodes
    }
    st.subheader("Around one node")
    more = f" The {NODES} that save most are listed." if box.nodes > NODES else ""
    key = f"node-{view.step}-{rank}-{box.first_seq}-{box.last_seq}"
    seq = numbers[st.selectbox("Node of the chosen box", list(numbers), key=key)]
    found = view.ask(neighbourhood, seq, rank=rank)
    st.write(
        "The node with the thick outline, and all within two steps of it: above, whose outputs it "
        "uses; below, who uses its own. Orange-red nodes keep memory." + more
    )
    show_drawing(nearby_drawing(found), name="nodes", alt="The nodes around the chosen one")
    if found.more:
        st.caption(f"{counted(found.more, 'node')} more within two steps.")
    if box.nodes > 1 and found.nodes[0].saves:
        saved = view.ask(saves_between, seq, seq, rank=rank)
        _table(saved, "The tensors that this node saves")


page()
