"""The figures of the README, made from the files in benchmarks/results.

`python benchmarks/figures.py` prints them, `--write` puts them between the README's two markers,
and a test holds the README to them. Whether a goal is met is worked out, not written.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edkm.compare.report import groups, label, numbers, spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- figures: python benchmarks/figures.py --write -->\n", "<!-- end of figures -->\n"
PAPER_MB = {"none": 1600, "M": 544, "M+S": 68, "M+U": 97, "M+U+S": 12}
TRACER_GOALS = {"summary": 0.02, "full": 0.10}
RATIO_GOALS = {"stories260K": 1.20, "stories3M": 1.10}


class Figure(NamedTuple):
    """A line of the table; ``met`` is None where there is no goal."""

    what: str
    measured: str
    goal: str
    met: bool | None
    source: str


def newest(name: str) -> dict[str, Any]:
    """The result ``name_HARDWARE_DATE.json`` of the latest date."""
    files = sorted(RESULTS.glob(f"{name}_*.json"), key=lambda path: path.stem.rpartition("_")[2])
    if not files:
        raise SystemExit(f"{RESULTS}/{name}_*.json: no such result; run the benchmark first")
    content: dict[str, Any] = json.loads(files[-1].read_text())
    return content


def table_2() -> Iterator[str]:
    """Host bytes of each combination of switches, beside the paper's."""
    yield "| switches | host MiB for backward, one learner | paper, MB | forward + backward s |"
    yield "|---|---|---|---|"
    for row in newest("ablation")["rows"]:
        seconds = row["forward_s"] + row["backward_s"]
        time = f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"
        paper = PAPER_MB.get(row["name"], "-")
        yield f"| {row['name']} | {row['host_bytes'] / 2**20:.1f} | {paper} | {time} |"


def clustering() -> Iterator[Figure]:
    result = newest("dkm")
    rows = {row["impl"]: row for row in result["rows"]}
    seconds = {name: row["forward_s"] + row["backward_s"] for name, row in rows.items()}
    ours, theirs = rows["fused"], rows["coremltools"]
    yield Figure(
        "clustering 4096 x 4096 to 3 bits, forward and backward; Apple's own DKM (coremltools)",
        f"{seconds['fused']:.3f} s, {ours['saved_beyond_weight_bytes'] / 2**20:.1f} MiB saved; "
        f"{seconds['coremltools']:.2f} s, {theirs['saved_beyond_weight_bytes'] / 2**20:.0f} MiB",
        "", None, "dkm",
    )  # fmt: skip
    block = result["block"]
    yield ratio(
        "step of a LLaMA block with clustered layers, time", block["time_ratio"], 1.25, "dkm"
    )
    yield ratio("the same, peak memory", block["peak_ratio"], 1.05, "dkm")
    step = newest("train_step")
    for what, key, goal in (
        ("training step of a clustered LLaMA, time", "time_ratio", 1.25),
        ("the same, peak of what torch allocates", "allocated_ratio", 1.05),
        ("the same, peak of the process with the code it loads", "peak_ratio", 1.05),
    ):
        yield ratio(what, step[key]["clustered"], goal, "train_step")
    step = newest("train_step-float32")
    for what, kind in (("in float32", "clustered"), ("in float32, by importance", "weighed")):
        value = step["time_ratio"][kind]
        yield ratio(
            f"training step of a clustered LLaMA {what}, time", value, 1.25, "train_step-float32"
        )


def ratio(what: str, value: float, goal: float, source: str) -> Figure:
    return Figure(what, f"{value:.2f} x plain", f"{goal:.2f}", value <= goal, source)


def offloading() -> Iterator[Figure]:
    copied: dict[str, list[float]] = {}
    for row in newest("offload")["rows"]:
        copied.setdefault(row["offloader"], []).append(row["host_bytes"] / row["floor_bytes"])
    ours, theirs = copied["edkm"], copied["save_on_cpu"]
    yield Figure(
        "offloading a LLaMA: bytes copied for each byte needed; `save_on_cpu`",
        f"{max(ours):.2f}; {min(theirs):.1f} to {max(theirs):.1f}",
        "1.00", max(ours) <= 1, "offload",
    )  # fmt: skip


def tracing() -> Iterator[Figure]:
    for row in newest("tracer_overhead")["rows"]:
        low, high = (f"{100 * end:.1f}" for end in row["overhead_interval"])
        goal = TRACER_GOALS[row["level"]]
        yield Figure(
            f"tracing {row['model']} at level {row['level']}, processor time (95 % interval)",
            f"{100 * row['overhead']:.1f} % ({low} to {high})",
            f"{100 * goal:.0f} %", row["overhead"] <= goal, "tracer_overhead",
        )  # fmt: skip
    scale = newest("trace_scale")
    for kind in ("columns", "records"):
        rate = scale[kind]["saves_per_s"]
        yield Figure(
            f"saves written a second, from {kind}",
            f"{rate / 1000:.0f} thousand, {scale[kind]['bytes_per_save']:.1f} bytes each",
            "300 thousand", rate >= 300_000, "trace_scale",
        )  # fmt: skip


class Tuned(NamedTuple):
    """One way to tune one model to some bits, over its seeds."""

    model: str
    bits: str
    steps: int
    budget: int  # bits whose bytes are taken
    perplexity: list[float]
    dense: list[float]  # tuned dense model of the same seed
    size: int  # bytes of the file
    source: str


def tuned() -> Iterator[Tuned]:
    """The runs of benchmarks/train.py, and the allocated rows of the comparison."""
    for path in sorted(RESULTS.glob("train_stories*.json")):
        result = json.loads(path.read_text())
        given = result["arguments"]
        by_bits: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in result["rows"]:
            budget = row["bits"] or row["budget_bits"]
            by_bits.setdefault((row["model"], budget), []).append(row)
        for (model, budget), rows in by_bits.items():
            first = rows[0]
            bits = str(budget) if first["bits"] else f"bytes of {budget}, allocated"
            bits += ", a scale a row" if given.get("row_scale") else ""
            yield Tuned(
                model, bits, given["steps"], budget,
                [row["perplexity_after_hard"] for row in rows],
                [row["perplexity_dense_tuned"] for row in rows],
                first["file_bytes"], path.stem.rsplit("_", 2)[0],
            )  # fmt: skip
    compared = newest("compare_stories3M")
    rows = [row for row in compared["rows"] if row["status"] == "done"]
    dense = {row["seed"]: row["ppl"] for row in rows if row["method"] == "dense"}
    ours = [row for row in rows if row["method"] == "edkm-allocated"]
    for budget in sorted({row["bits"] for row in ours}, reverse=True):
        at = [row for row in ours if row["bits"] == budget]
        yield Tuned(
            "stories3M", f"bytes of {budget}, allocated", compared["settings"]["steps"], budget,
            [row["ppl"] for row in at], [dense[row["seed"]] for row in at],
            at[0]["size_bytes"], "compare_stories3M",
        )  # fmt: skip


def training() -> Iterator[str]:
    """Clustered models over the dense ones tuned, with the goals of 3 bits."""
    yield "| tuned | bits | steps | seeds | perplexity | dense, tuned | times | goal | MB | from |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in tuned():
        ratios = [ours / dense for ours, dense in zip(one.perplexity, one.dense, strict=True)]
        verdict = "-"
        if one.budget == 3:
            goal = RATIO_GOALS[one.model]
            verdict = f"{goal:.2f}, " + ("met" if max(ratios) <= goal else "**missed**")
        cells = (one.model, one.bits, f"{one.steps:,}", len(ratios), span(one.perplexity),
                 span(one.dense), span(ratios), verdict,
                 f"{one.size / 1e6:.3f}", f"`{one.source}_*.json`")  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |"


def processes() -> Iterator[Figure]:
    """What a process of a sharded run holds, and how far its result is from one process's."""
    rows = newest("train_processes-stories3M")["rows"]
    held, saved = (
        [row for row in rows if row["shard_saved"] is shared] for shared in (False, True)
    )
    yield Figure(
        "stories3M sharded over 1, 2 and 4 processes: MB of weights and optimizer state in each",
        "; ".join(f"{row['state_bytes_per_rank_max'] / 1e6:.1f}" for row in held),
        "", None, "train_processes-stories3M",
    )  # fmt: skip
    yield Figure(
        "the same with `--shard-saved`, 2 and 4: MB of shared saves in each; equal to unshared",
        "; ".join(f"{row['host_bytes_per_rank_max'] / 1e6:.1f}" for row in saved)
        + "; " + ", ".join("yes" if row["equal_to_unshared"] else "no" for row in saved),
        "equal", all(row["equal_to_unshared"] for row in saved), "train_processes-stories3M",
    )  # fmt: skip


def span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def peers() -> Iterator[str]:
    """Every method at 3 bits, and the two best at 4, by perplexity."""
    rows = [row for row in newest("compare_stories3M")["rows"] if row["status"] == "done"]
    three, four = (groups(row for row in rows if row["bits"] == bits) for bits in (3, 4))
    yield "| stories3M | bits | MB | perplexity | seeds |"
    yield "|---|---|---|---|---|"
    for found in (*four[:2], *three):
        first, perplexity = found[0], spread(numbers(found, "ppl"))
        cells = (*label(first), f"{first['size_bytes'] / 1e6:.2f}")
        yield "| " + " | ".join(map(str, (*cells, perplexity, len(found)))) + " |"


def figures() -> str:
    """Everything that stands between the markers."""
    lines = [*table_2(), "", "| figure | measured | goal | from |", "|---|---|---|---|"]
    for part in (clustering, offloading, tracing, processes):
        for one in part():
            verdict = {None: "", True: ", met", False: ", **missed**"}[one.met]
            goal = one.goal + verdict if one.goal else "-"
            lines.append(f"| {one.what} | {one.measured} | {goal} | `{one.source}_*.json` |")
    return "\n".join([*lines, "", *training(), "", *peers(), ""])


def replaced(text: str) -> str:
    """The README with the figures of today."""
    pattern = re.escape(START) + ".*" + re.escape(END)
    if not re.search(pattern, text, re.S):
        raise SystemExit(f"README.md: no figures between {START.strip()} and {END.strip()}")
    return re.sub(pattern, lambda _: START + figures() + END, text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into README.md")
    if parser.parse_args().write:
        page = ROOT / "README.md"
        page.write_text(replaced(page.read_text()))
    else:
        print(figures(), end="")


if __name__ == "__main__":
    main()
