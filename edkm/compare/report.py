"""The rows of a comparison as tables for readers; ``python -m edkm.compare.report FILE``.

Contract: Markdown, a line for each method and bits: mean and spread over seeds, failures named;
scores of tasks in a table of their own. ``--into`` puts them in place of what a document holds
between ``<!-- FILE's name -->`` and ``<!-- end -->``.
Boundary: nothing is measured here; the picture is ``edkm.compare.picture``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edkm.method_names import bits_text, title

Row = dict[str, Any]


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
    """The rows as a Markdown table; below it the scores of tasks, and what failed."""
    head = ("method", "bits", "embeddings", "group", "bytes", "bits/weight", "perplexity",
            "of dense", "seeds", "CPU s", "peak MiB")  # fmt: skip
    done = [row for row in result["rows"] if row["status"] == "done"]
    lines = [*_head(head), *(_line(_cells(members)) for members in groups(done))]
    scored = [row for row in done if row["tasks"]]
    if names := sorted({name for row in scored for name in row["tasks"]}):
        lines += ["", *_head(("method", "bits", *names))]
        for members in groups(scored):
            scores = (_mean(row["tasks"].get(name) for row in members) for name in names)
            lines.append(_line((*label(members[0]), *scores)))
    wrong = [row for row in result["rows"] if row["status"] != "done"]
    if wrong:
        lines += ["", "Failed:", ""]
        for row in wrong:
            name = f"{title(row['method'])}, {_bits(row)}, seed {row['seed']}"
            lines.append(f"- {name}: {row['error']}")
    return "\n".join(lines) + "\n"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def label(row: Row) -> tuple[str, str]:
    """(method, its bits) of a row as a table says them."""
    return title(row["method"]), bits_text(row["method"], row["bits"])


def _mean(scores: Iterable[float | None]) -> str:
    found = [score for score in scores if score is not None]
    return f"{statistics.mean(found):.3f}" if found else ""


def _bits(row: Row) -> str:
    return "no bits" if row["bits"] is None else f"{row['bits']} bits"


def _cells(rows: list[Row]) -> list[str]:
    first = rows[0]
    seconds, peak = numbers(rows, "cpu_seconds"), numbers(rows, "peak_bytes")
    return [
        *label(first),
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


def insert(text: str, name: str, lines: str) -> str:
    """``text`` with ``lines`` between the marks of ``name``. ``ValueError`` without marks."""
    mark, end = f"<!-- {name} -->", "<!-- end -->"
    made, count = re.subn(
        f"{re.escape(mark)}.*?{end}", lambda _: f"{mark}\n{lines}{end}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"there are {count} places from {mark} to {end}; there must be one")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a comparison.json, or put it into a document."""
    parser = argparse.ArgumentParser(prog="python -m edkm.compare.report", description=main.__doc__)
    parser.add_argument("file", type=Path, help="comparison.json")
    parser.add_argument("--into", type=Path, help="document with marks, rewritten in place")
    parser.add_argument("--picture", type=Path, help="also draw the rows, as PNG")
    options = parser.parse_args(arguments)
    result = json.loads(options.file.read_text(encoding="utf-8"))
    lines = table(result)
    if options.picture is not None:
        from edkm.compare.picture import picture

        picture(result, options.picture)
    if options.into is None:
        print(lines, end="")
        return
    try:
        text = insert(options.into.read_text(encoding="utf-8"), options.file.name, lines)
    except ValueError as error:
        raise SystemExit(f"error: {options.into}: {error}") from error
    options.into.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
