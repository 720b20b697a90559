"""Which rows of a run go into which picture of an ablation.

Contract: PNG and SVG files in the run's own `pictures/` folder; one that cannot be drawn is named
with its reason and does not keep the others from being drawn.
Boundary: selects rows; drawing is `profiler.reports`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from profiler.query import Run
from profiler.reports.bars import draw_host_bytes
from profiler.reports.duplicates import found_by
from profiler.reports.graph_picture import draw_graph
from profiler.reports.timeline import draw_memory

Drawn = tuple[Path, Path]


def draw_ablation(run: Run, *, module: str) -> tuple[list[Path], list[str]]:
    """Draw every picture of an ablation run; what was drawn, and what went wrong.

    Args:
        run: the run, with an ablation.json.
        module: the clustering module whose graph is drawn.
    """
    folder = run.path / "pictures"
    folder.mkdir(exist_ok=True)
    jobs: dict[str, Callable[[], Drawn]] = {
        "host_bytes": lambda: draw_host_bytes(run.ablation or {}, folder / "host_bytes"),
        "graph": lambda: _graph(run, module, folder / "graph"),
        "memory": lambda: draw_memory(run.table("memory"), run.table("steps"), folder / "memory"),
    }
    drawn: list[Path] = []
    problems: list[str] = []
    for name, draw in jobs.items():
        try:
            drawn += draw()
        except (ValueError, OSError) as error:
            problems.append(f"picture {name}: not drawn ({error})")
    return drawn, problems


def _graph(run: Run, module: str, stem: Path) -> Drawn:
    """The clustering of one matrix in the first step; duplicates as a marshaled step found them."""
    steps = {step.name: step.step for step in run.steps}
    first = min(steps.values(), default=0)
    nodes = _rows(run, "nodes", first, module)
    numbers = [node["seq"] for node in nodes]
    edges = run.sql(
        "select * from edges where step = ? and list_contains(?, source) "
        "and list_contains(?, target)",
        [first, numbers, numbers],
    ).to_pylist()
    saves = _rows(run, "saves", first, module)
    marshaled = next((steps[name] for name in steps if name.startswith("M")), first)
    aliases = found_by(saves, _rows(run, "saves", marshaled, module))
    return draw_graph(nodes, edges, saves, stem, aliases=aliases)


def _rows(run: Run, table: str, step: int, module: str) -> list[dict[str, Any]]:
    order = "save_id" if table == "saves" else "seq"
    query = f"select * from {table} where step = ? and module = ? order by {order}"
    rows: list[dict[str, Any]] = run.sql(query, [step, module]).to_pylist()
    return rows
