"""The default command as a user runs it: `python -m profiler.trace --layer attn0`.

Each run is a fresh process: wall time from outside, resident size from outside and from its trace,
and the phases that ablation.json records. Prints a table, or JSON with `--json`.

    python benchmarks/ablation.py [--runs 3] [--json] [--out FILE] [-- further trace options]

What it must show: at most 120 s and 6 GiB on a 2-core machine, and host bytes that do not vary.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from profiler import open_run
from profiler.machine import collect_hardware, collect_versions, utc_now

MIB = 1 << 20


def main() -> None:
    options = parse_options()
    runs = [one_run(options.rest) for _ in range(options.runs)]
    result = {
        "benchmark": "ablation",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": options.rest,
        "runs": len(runs),
        "wall_s": statistics.median(run["wall_s"] for run in runs),
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "phases_s": medians([run["phases"] for run in runs]),
        "rows": [row_of(runs, name) for name in (row["name"] for row in runs[0]["rows"])],
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text if options.json else table(result))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", help="also write JSON here")
    parser.add_argument("rest", nargs="*", help="further options of profiler.trace, after --")
    return parser.parse_args()


def one_run(rest: list[str]) -> dict[str, Any]:
    """Run the command once; what it printed, its wall time and its peak resident size."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "profiler.trace", "--layer", "attn0", *rest]
        command += ["--out", f"{folder}/run", "--json"]
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
        with open_run(f"{folder}/run") as run:
            (sampled,) = run.sql("select max(rss_bytes) m from memory")["m"].to_pylist()
    # The command resets the kernel's own high-water mark before every row, so the samples of its
    # trace (20 ms apart) are needed as well.
    peak = max(usage.ru_maxrss * 1024, sampled)
    return {**json.loads(printed), "wall_s": wall, "peak_rss_bytes": peak}


def medians(several: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in several) for key in several[0]}


def row_of(runs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Bytes, which must be equal in all runs, and median times."""
    rows = [row for run in runs for row in run["rows"] if row["name"] == name]
    (host,) = {row["host_bytes"] for row in rows}
    (d2h,) = {row["d2h_bytes"] for row in rows}
    numbers = ("forward_s", "backward_s", "peak_bytes")
    return {
        "name": name,
        "host_bytes": host,
        "d2h_bytes": d2h,
        "grad_rel_error": rows[0]["grad_rel_error"],
        **{key: statistics.median(row[key] for row in rows) for key in numbers},
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"wall {result['wall_s']:.1f} s (median of {result['runs']}), "
        f"peak resident {result['peak_rss_bytes'] / MIB:.0f} MiB (highest)",
        f"{'row':8}{'host MiB':>10}{'D2H MiB':>10}{'forward s':>11}{'backward s':>12}",
    ]
    lines += [
        f"{row['name']:8}{row['host_bytes'] / MIB:10.1f}{row['d2h_bytes'] / MIB:10.1f}"
        f"{row['forward_s']:11.3f}{row['backward_s']:12.3f}"
        for row in result["rows"]
    ]
    phases = (f"{name} {seconds:.1f}" for name, seconds in result["phases_s"].items())
    return "\n".join([*lines, "phases, s: " + ", ".join(phases)])


if __name__ == "__main__":
    main()
