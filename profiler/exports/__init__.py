"""A run in the formats of other tools, one file per format; each writes and never reads back.

Perfetto / Chrome JSON, PyTorch memory snapshot, Model Explorer, GraphML, DOT, folded stacks.
Not here: Parquet (the run folder is Parquet as it is) and HTML (profiler.reports).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from profiler.exports import chrome, folded, graphs, model_explorer, snapshot
from profiler.query import Run

Build = Callable[[Run, int | None], bytes]
FORMATS: dict[str, tuple[Build, str]] = {
    "perfetto": (chrome.build, "perfetto.json"),
    "snapshot": (snapshot.build, "snapshot.pickle"),
    "model-explorer": (model_explorer.build, "model_explorer.json"),
    "model-explorer-data": (model_explorer.build_overlay, "model_explorer_bytes.json"),
    "graphml": (graphs.build_graphml, "graph.graphml"),
    "dot": (graphs.build_dot, "graph.dot"),
    "folded": (folded.build, "stacks.folded"),
}

__all__ = ["FORMATS", "export", "run_and_formats"]


def run_and_formats(words: Sequence[str], out: Path | None) -> tuple[str, list[str]]:
    """Tell the run from the formats among the words of a command line, in whatever order.

    No format stands for all of them. A run that is called like a format stands last.
    ValueError for no run, or several, and for `out` (one file) where several are written.
    """
    runs = [word for word in words if word not in FORMATS] or list(words[-1:])
    if len(runs) != 1:
        raise ValueError(
            f"export: got {', '.join(runs)}, must be one run and formats among {', '.join(FORMATS)}"
        )
    place = len(words) - 1 - list(reversed(words)).index(runs[0])
    kinds = [*words[:place], *words[place + 1 :]] or list(FORMATS)
    if out is not None and len(kinds) > 1:
        raise ValueError(f"out: got {str(out)!r}, which is one file, for {len(kinds)} formats")
    return runs[0], kinds


def export(
    run: Run, kind: str, out: Path | None = None, *, step: int | None = None, force: bool = False
) -> Path:
    """Write a run in one of FORMATS and return the file.

    out: the file; default: a name by the format in `exports/` of the run folder.
    step: one step; default: all steps on a time line, the last with saves otherwise.
    ValueError for an unknown format or step, and for a file that exists without force.
    """
    if kind not in FORMATS:
        raise ValueError(f"format: got {kind!r}, but there are only {', '.join(FORMATS)}")
    build, name = FORMATS[kind]
    path = out or run.path / "exports" / name
    if path.exists() and not force:
        raise ValueError(
            f"file: got {str(path)!r}, which exists, and nothing is overwritten; "
            "choose another name or use --force (force=True)"
        )
    content = build(run, step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"file: got {str(path)!r}, which cannot be written ({reason}); choose another"
        ) from error
    return path
