"""How the dashboard answers over a run of millions of saves: first chart, interactions, payload.

Writes a run like that of `trace_scale` (1,312 saves a step), with storages, nodes, edges, memory
and stacks, and measures three budgets of docs/dashboard.md:

    first chart    seconds from a click on a page's name to its chart, in headless Chromium, with
                   nothing of that run asked before; at most 2
    interaction    milliseconds of the script on the server for a changed control, the median over
                   a few values that were never asked before; at most 300
    payload        bytes that the page and its data sent to the browser, the framework's own files
                   apart; below 3 MB

    python benchmarks/dashboard.py [--saves 5000000] [--json] [--out FILE] [--keep FOLDER]

`--keep` leaves the run in a folder and uses it again. Exit code 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trace_scale import MODULE_NAMES, OPS, PER_STEP, columns_of

PROJECT = Path(__file__).resolve().parent.parent
sys.path[0] = str(PROJECT)  # or this very file would be the package `dashboard`

from playwright.sync_api import Page  # noqa: E402
from streamlit.testing.v1 import AppTest  # noqa: E402

from profiler.events import Module, Stack, Step  # noqa: E402
from profiler.machine import collect_hardware, collect_versions, utc_now  # noqa: E402
from profiler.store import RunWriter  # noqa: E402
from tests.dashboard.browsing import chromium, serving  # noqa: E402

FIRST_CHART_S, INTERACTION_MS, PAYLOAD_BYTES = 2.0, 300.0, 3_000_000
RUN = "large"
SAMPLES = 60  # of memory per step
STEP_NS = 2 * 10**9
# A chart of this page: what is left of the page before is marked as stale.
CHART = ", ".join(
    f"[data-testid=stElementContainer][data-stale=false] {each}"
    for each in (
        "[data-testid=stVegaLiteChart] canvas", "[data-testid=stVegaLiteChart] svg",
        "[data-testid=stEChartsChart] canvas", "[data-testid=stDataFrame]",
    )
)  # fmt: skip
PAGES = {
    "Overview": "overview", "Timeline": "timeline", "Where": "where", "Duplicates": "duplicates",
    "Graph": "graph", "Runs": "compare_runs", "What-if": "compare_whatif",
}  # fmt: skip


def main() -> None:
    options = parse_options()
    with folder(options.keep) as root:
        if not (root / RUN / "run.json").is_file():
            write_run(root / RUN, options.saves)
        pages = measure_browser(root)
        interactions = measure_interactions(root)
    result = {
        "benchmark": "dashboard",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "saves": options.saves // PER_STEP * PER_STEP,
        "budgets": {
            "first_chart_s": FIRST_CHART_S,
            "interaction_ms": INTERACTION_MS,
            "payload_bytes": PAYLOAD_BYTES,
        },
        "pages": pages,
        "interactions": interactions,
        "missed": missed(pages, interactions),
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text if options.json else table(result))
    raise SystemExit(bool(result["missed"]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--saves", type=int, default=5_000_000, help="saves of the run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write JSON to this file too")
    parser.add_argument("--keep", type=Path, help="write the run here, or use the one that is here")
    return parser.parse_args()


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="dashboard-") as made:
        yield Path(made)


def write_run(path: Path, saves: int) -> None:
    """A run of about `saves` saves, written as whole columns."""
    with RunWriter(path, {"command": "benchmark"}, flush_rows=10**9, flush_seconds=1e6) as writer:
        for name in dict.fromkeys(MODULE_NAMES):
            writer.add(Module(module=name, kind="Module", parent=name.rpartition(".")[0]))
        for number in range(300):
            frames = [f"model.py:{number}:Block.forward", "train.py:10:main"]
            writer.add(Stack(stack_id=number, frames=frames))
        for step in range(max(1, saves // PER_STEP)):
            for table, columns in tables_of(step).items():
                writer.add_many(table, columns)
            begin = 10**15 + step * STEP_NS
            writer.add(
                Step(
                    step=step, start_ns=begin, forward_end_ns=begin + STEP_NS // 2,
                    end_ns=begin + STEP_NS - 1, peak_bytes=(60 + step % 7) << 30,
                )
            )  # fmt: skip
            if step % 48 == 47:
                writer.flush()


def tables_of(step: int) -> dict[str, dict[str, Any]]:
    """The rows of one step."""
    begin = 10**15 + step * STEP_NS
    place = np.arange(PER_STEP)
    saves = columns_of(step)
    seqs = step * 4000 + place
    saves["node_seq"] = seqs
    _, first = np.unique(saves["storage_id"], return_index=True)
    wave = np.concatenate([np.linspace(0, 1, SAMPLES // 2), np.linspace(1, 0, SAMPLES // 2)])
    saved = (wave * ((40 + step % 7) << 30)).astype(np.int64)
    every = np.full(SAMPLES, step)
    return {
        "saves": saves,
        "storages": {
            "storage_id": saves["storage_id"][first],
            "step": np.full(len(first), step),
            "bytes": saves["storage_bytes"][first],
            "device": ["cuda:0"] * len(first),
            "category": ["saved"] * len(first),
            "born_ns": begin + first * 500_000,
            "died_ns": begin + STEP_NS - 1 - first * 500_000,
            "module": [MODULE_NAMES[i] for i in first],
        },
        "nodes": {
            "step": np.full(PER_STEP, step),
            "seq": seqs,
            "name": [OPS[i % len(OPS)] for i in range(PER_STEP)],
            "module": list(MODULE_NAMES),
            "saved_bytes": saves["logical_bytes"],
        },
        "edges": {
            "step": np.full(PER_STEP - 1, step),
            "source": seqs[:-1],
            "target": seqs[1:],
        },
        "memory": {
            "step": every,
            "time_ns": begin + np.arange(SAMPLES) * (STEP_NS // SAMPLES),
            "phase": ["forward"] * (SAMPLES // 2) + ["backward"] * (SAMPLES // 2),
            "device": ["cuda:0"] * SAMPLES,
            "allocated_bytes": saved + (14 << 30),
            "param_bytes": every * 0 + (13 << 30),
            "saved_bytes": saved,
        },
    }


def measure_browser(root: Path) -> dict[str, dict[str, float]]:
    """Per page, in the order of the navigation: seconds to the first chart, and bytes."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as logs, serving(root, Path(logs) / "log") as address:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(120_000)
            counted = count_bytes(page)
            page.goto(f"{address}/methods?run={RUN}")  # the framework's files, and no figure
            page.wait_for_selector("h1")
            settled(page)
            for name in PAGES:
                counted["data"] = 0
                before = page.locator("h1").inner_text()
                start = time.perf_counter()
                link = page.get_by_test_id("stSidebarNav").get_by_role(
                    "link", name=name, exact=True
                )
                link.click()
                page.wait_for_url(
                    f"**/{'' if name == 'Overview' else PAGES[name].replace('_', '-')}*"
                )
                page.wait_for_function(
                    "old => document.querySelector('h1')?.innerText !== old", arg=before
                )
                page.wait_for_selector(CHART)
                first = time.perf_counter() - start
                settled(page)
                whole = time.perf_counter() - start
                found[name] = {
                    "first_chart_s": round(first, 3), "whole_page_s": round(whole, 3),
                    "payload_bytes": counted["data"],
                }  # fmt: skip
    return found


def count_bytes(page: Page) -> dict[str, int]:
    """Counts what arrives over the web socket: everything but the framework's own files."""
    counted = {"data": 0}

    def on_frame(payload: str | bytes) -> None:
        counted["data"] += len(payload)

    page.on("websocket", lambda socket: socket.on("framereceived", on_frame))
    return counted


def settled(page: Page) -> None:
    page.wait_for_timeout(100)
    page.wait_for_selector("[data-test-script-state=notRunning]")


def measure_interactions(root: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of the script for a changed control, with an answer never given before."""
    sys.argv = ["app.py", "--runs", str(root)]
    found = {}
    for number, (name, page) in enumerate(PAGES.items()):
        app = AppTest.from_file(str(PROJECT / "dashboard" / "app.py"), default_timeout=300)
        app.query_params["run"] = RUN
        app.run()
        app.switch_page(f"app_pages/{page}.py").run()
        count = len(app.selectbox(key="step").options)
        steps = [(count // 2 + 10 * number + turn) % count for turn in range(5)]
        found[f"{name}: another step"] = timed(app, "step", steps)
        if page == "compare_whatif":
            places = app.selectbox(key="checkpoint").options[:5]
            found[f"{name}: another lever"] = timed(app, "checkpoint", places)
    return found


def timed(app: AppTest, key: str, values: Sequence[Any]) -> dict[str, float]:
    """Sets a control to each value; wall and processor time of the script."""
    times, works = [], []
    for value in values:
        app.selectbox(key=key).set_value(value)
        start, work = time.perf_counter(), time.process_time()
        app.run()
        times.append(1000 * (time.perf_counter() - start))
        works.append(1000 * (time.process_time() - work))
        assert not app.exception, app.exception
    return {
        "median_ms": round(statistics.median(times), 1),
        "max_ms": round(max(times), 1),
        "median_cpu_ms": round(statistics.median(works), 1),
    }


def missed(
    pages: dict[str, dict[str, float]], interactions: dict[str, dict[str, float]]
) -> list[str]:
    """The budgets that were not kept, in words."""
    found = []
    for name, row in pages.items():
        if row["first_chart_s"] > FIRST_CHART_S:
            found.append(f"{name}: first chart after {row['first_chart_s']} s")
        if row["payload_bytes"] >= PAYLOAD_BYTES:
            found.append(f"{name}: {row['payload_bytes']} bytes")
    for name, row in interactions.items():
        if row["median_ms"] > INTERACTION_MS:
            found.append(f"{name}: {row['median_ms']} ms")
    return found


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['saves']:,} saves",
        f"{'':28}{'first chart s':>16}{'whole s':>10}{'bytes':>12}",
    ]
    for name, row in result["pages"].items():
        lines.append(
            f"{name:28}{row['first_chart_s']:>16}{row['whole_page_s']:>10}{row['payload_bytes']:>12,}"
        )
    for name, row in result["interactions"].items():
        lines.append(
            f"{name:28}{row['median_ms']:>13} ms (at most {row['max_ms']}, "
            f"processor {row['median_cpu_ms']})"
        )
    lines.append("missed: " + ("; ".join(result["missed"]) or "nothing"))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
