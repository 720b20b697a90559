"""The rows of a comparison as a table for readers.

Contract: Markdown, a line for each method and bits: mean and spread over seeds, failures named.
Boundary: nothing is measured here; the picture is ``edkm.compare.picture``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from edkm.compare.plan import parse

Row = dict[str, Any]
NAMES = {
    "dense": "dense, tuned", "rtn": "RTN", "smoothquant": "SmoothQuant (weights)", "gptq": "GPTQ",
    "awq": "AWQ", "llm-qat": "LLM-QAT (weights)", "kmeans": "k-means", "dkm": "DKM (coremltools)",
    "edkm": "eDKM", "edkm-allocated": "eDKM (allocated)",
}  # fmt: skip


def title(name: str) -> str:
    """A method's name as readers know it."""
    start, method, bits = parse(name)
    text = NAMES[method] if start == "given" else f"tuned, then {NAMES[method]}"
    return text if bits is None else f"{text}, embeddings {bits}"


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one method and bits together, by bits, then perplexity."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["bits"] or 99, row["method"]), []).append(row)

    def order(item: tuple[tuple[Any, ...], list[Row]]) -> tuple[int, float]:
        values = numbers(item[1], "ppl")
        return -item[0][0], statistics.mean(values) if values else float("inf")

    return [members for _, members in sorted(found.items(), key=order)]


def table(result: dict[str, Any]) -> str:
    """The rows as a Markdown table; below it what failed."""
    tasks = sorted({name for row in result["rows"] for name in row["tasks"] or {}})
    head = ["method", "bits", "embeddings", "group", "bytes", "bits/weight", "perplexity",
            "of dense", "seeds", "CPU s", "peak MiB", *tasks]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for members in groups(result["rows"]):
        if done := [row for row in members if row["status"] == "done"]:
            lines.append("| " + " | ".join(_cells(done, tasks)) + " |")
    wrong = [row for row in result["rows"] if row["status"] != "done"]
    if wrong:
        lines += ["", "Failed:", ""]
        for row in wrong:
            name = f"{title(row['method'])}, {_bits(row)}, seed {row['seed']}"
            lines.append(f"- {name}: {row['error']}")
    return "\n".join(lines) + "\n"


def _bits(row: Row) -> str:
    return "no bits" if row["bits"] is None else f"{row['bits']} bits"


def _cells(rows: list[Row], tasks: list[str]) -> list[str]:
    first = rows[0]
    seconds, peak = numbers(rows, "cpu_seconds"), numbers(rows, "peak_bytes")
    cells = [
        title(first["method"]),
        "" if first["bits"] is None else str(first["bits"]),
        "" if first["embedding_bits"] is None else str(first["embedding_bits"]),
        "" if first["group_size"] is None else str(first["group_size"]),
        f"{statistics.mean(numbers(rows, 'size_bytes')):,.0f}",
        f"{statistics.mean(numbers(rows, 'bits_per_weight')):.2f}",
        spread(numbers(rows, "ppl")),
        _ratio(rows),
        str(len(rows)),
        f"{statistics.mean(seconds):.0f}",
        f"{max(peak) / (1 << 20):.0f}",
    ]
    for name in tasks:
        scores = [row["tasks"][name] for row in rows if (row["tasks"] or {}).get(name) is not None]
        cells.append(f"{statistics.mean(scores):.3f}" if scores else "")
    return cells


def _ratio(rows: list[Row]) -> str:
    found = [row["ppl"] / row["ppl_dense"] for row in rows if row["ppl"] and row["ppl_dense"]]
    return f"{statistics.mean(found):.3f}" if found else ""


def spread(values: list[float]) -> str:
    """Mean, and half the range where there is more than one; "infinite" without a number."""
    if not values:
        return "infinite"
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"


def numbers(rows: Iterable[Row], name: str) -> list[float]:
    """The rows' values of ``name``, where there is one."""
    return [float(row[name]) for row in rows if row[name] is not None]
