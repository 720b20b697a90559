"""How the run folder scales: millions of saves written, merged, opened and summarised.

Writes synthetic saves shaped like a fine-tune of a 32-layer LLaMA (1,312 saves a step, 12 kinds
of node, times with jitter, each storage saved 1.6 times, unpacked in reverse order) through
`RunWriter`, once as whole columns (`add_many`) and once record by record (`add`, then `update`
as a tracer does when backward asks for the tensor; every 48th step is written to disk between the
two, so that its rows are superseded). Prints a table, or JSON with `--json`.

    python benchmarks/trace_scale.py [--saves 5000000] [--records 1000000] [--json] [--out FILE]

All writing is done on the calling thread here, so that the rates are those of the store alone;
making the rows is left out of `saves_per_s` and is in `saves_per_s_with_producing`.
`saves_per_cpu_s` is the same rate by processor time, which a busy neighbour changes less.
A copy taken before the run is closed, as a kill would leave it, is read too (`unclosed_...`).
Superseded rows that closing leaves, where they are few, count in `bytes_per_save`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from profiler.analyses import duplicates, ledger
from profiler.events import Save, Step
from profiler.machine import collect_hardware, collect_versions, utc_now
from profiler.memory import PeakRss, rss_bytes
from profiler.query import open_run
from profiler.store import RunWriter

LAYERS, PER_LAYER = 32, 41
PER_STEP = LAYERS * PER_LAYER
FLUSH_STEPS = 48
FLUSH_ROWS = 2 * FLUSH_STEPS * PER_STEP + 1  # above what is flushed by hand: no thread helps
OPS = [f"{name}Backward0" for name in (
    "Mm", "Silu", "Mul", "Softmax", "T", "View", "Add", "Pow", "Rsqrt", "ToCopy", "Bmm", "Embedding"
)]  # fmt: skip
MODULES = [
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn",
    "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.act_fn",
    "mlp.down_proj",
]  # fmt: skip
SHAPES = [[2, 2048, 4096], [4096, 4096], [4096, 4096], [2, 32, 2048, 128], [2, 2048, 11008]]
BYTES = [2 * int(np.prod(shape)) for shape in SHAPES]


def main() -> None:
    options = parse_options()
    root = Path(tempfile.mkdtemp(prefix="trace-scale-", dir=options.folder))
    try:
        result = {
            "benchmark": "trace_scale",
            "created": utc_now(),
            "versions": collect_versions(),
            "hardware": collect_hardware(),
            "saves_per_step": PER_STEP,
            "columns": measure(root / "columns", options.saves, by_columns),
            "records": measure(root / "records", options.records, by_records),
        }
    finally:
        shutil.rmtree(root)
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text if options.json else table(result))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--saves", type=int, default=5_000_000, help="saves written as columns")
    parser.add_argument("--records", type=int, default=5_000_000, help="saves written one by one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write JSON to this file too")
    parser.add_argument("--folder", type=Path, help="where to write the runs (default: temporary)")
    return parser.parse_args()


def measure(path: Path, count: int, write: Any) -> dict[str, Any]:
    """Write a run of about `count` saves and read it back; seconds, bytes and rates."""
    steps = max(1, count // PER_STEP)
    writer = RunWriter(path, {"command": "trace_scale"}, flush_rows=FLUSH_ROWS, flush_seconds=1e6)
    early = {"rss": 0}

    def note_progress(step: int) -> None:
        if step == steps // 10:
            early["rss"] = rss_bytes()

    with PeakRss() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        producing, producing_cpu = write(writer, steps, note_progress)
        writer.flush()
        added, added_cpu = time.perf_counter(), time.process_time()
        late = rss_bytes()
        killed = shutil.copytree(path, path.with_name(path.name + "-killed"))
        closing, closing_cpu = time.perf_counter(), time.process_time()
        writer.close()
        closed, closed_cpu = time.perf_counter(), time.process_time()
    saves = steps * PER_STEP
    wall = added - start + closed - closing
    cpu = added_cpu - cpu + closed_cpu - closing_cpu
    size = sum(p.stat().st_size for p in (path / "saves").glob("*.parquet"))
    return {
        "saves": saves,
        "add_s": added - start - producing,
        "merge_s": closed - closing,
        "producing_s": producing,
        "saves_per_s": saves / (wall - producing),
        "saves_per_cpu_s": saves / (cpu - producing_cpu),
        "saves_per_s_with_producing": saves / wall,
        "rss_at_tenth_bytes": early["rss"],
        "rss_before_merge_bytes": late,
        "rss_peak_bytes": peak.peak_bytes,
        "rss_growth_bytes": peak.peak_bytes - early["rss"],
        "bytes_per_save": size / saves,
        **reading(path),
        "superseded_rows": rows_in(path) - saves,
        "unclosed_superseded_rows": rows_in(killed) - saves,
        "unclosed_open_and_summarise_s": reading(killed)["open_and_summarise_s"],
    }


def rows_in(path: Path) -> int:
    """Rows of saves in the parts of a run, superseded ones among them."""
    return sum(pq.read_metadata(p).num_rows for p in (path / "saves").glob("*.parquet"))


def reading(path: Path) -> dict[str, float]:
    """Seconds to open the run, check it, and sum it up per module; then per analysis."""
    start = time.perf_counter()
    run = open_run(path)
    modules = run.sql(
        "SELECT module, count(*) AS saves, sum(logical_bytes) AS logical,"
        " sum(if(is_param, logical_bytes, 0)) AS of_parameters, sum(host_bytes) AS host"
        " FROM saves GROUP BY 1 ORDER BY logical DESC"
    )
    assert len(modules) == LAYERS * len(MODULES)
    assert run.note is None or run.note.startswith("not closed")
    summarised = time.perf_counter()
    ledger(run)
    ledgered = time.perf_counter()
    duplicates(run)
    done = time.perf_counter()
    return {
        "open_and_summarise_s": summarised - start,
        "ledger_s": ledgered - summarised,
        "duplicates_s": done - ledgered,
    }


def by_columns(writer: RunWriter, steps: int, progress: Any) -> tuple[float, float]:
    producing = Producing()
    for step in range(steps):
        with producing:
            columns = columns_of(step)
        writer.add_many("saves", columns)
        writer.add(Step(step=step, end_ns=int(columns["unpack_ns"][0])))
        if ends_in_flush(step):
            writer.flush()
        progress(step)
    return producing.wall, producing.cpu


def by_records(writer: RunWriter, steps: int, progress: Any) -> tuple[float, float]:
    producing = Producing()
    for step in range(steps):
        with producing:
            saves = list(records_of(step))
        for save in saves:
            writer.add(save)
        if ends_in_flush(step):
            writer.flush()
        for save in reversed(saves):
            save.unpacked_count = 1
            writer.update(save)
        writer.add(Step(step=step, end_ns=saves[0].unpack_ns))
        progress(step)
    return producing.wall, producing.cpu


def ends_in_flush(step: int) -> bool:
    return step % FLUSH_STEPS == FLUSH_STEPS - 1


class Producing:
    """The time inside its `with` blocks, in seconds."""

    wall = cpu = 0.0

    def __enter__(self) -> None:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def columns_of(step: int) -> dict[str, Any]:
    random = np.random.default_rng(step)
    place = np.arange(PER_STEP)
    first = step * PER_STEP
    start_ns = 10**15 + step * 2 * 10**9
    kinds = place % len(SHAPES)
    return {
        "save_id": first + place,
        "step": np.full(PER_STEP, step),
        "phase": ["forward"] * PER_STEP,
        "time_ns": start_ns + np.cumsum(random.integers(15_000, 900_000, PER_STEP)),
        "node_seq": step * 4000 + np.cumsum(random.integers(0, 4, PER_STEP)),
        "op": [OPS[i] for i in random.integers(0, len(OPS), PER_STEP)],
        "module": [MODULE_NAMES[i] for i in range(PER_STEP)],
        "stack_id": random.integers(0, 300, PER_STEP),
        "shape": [SHAPES[i] for i in kinds],
        "stride": [STRIDES[i] for i in kinds],
        "dtype": ["bfloat16"] * PER_STEP,
        "device": ["cuda:0"] * PER_STEP,
        "storage_id": first + np.cumsum(random.random(PER_STEP) < 0.625),
        "producer_seq": np.where(kinds == 1, 0, step * 4000 + place),
        "producer_output": (place % 7 == 0).astype(np.int64),
        "unpack_version": random.integers(0, 2, PER_STEP),
        "dropped_ns": [start_ns + 20_000 * i if i % 5 < 2 else None for i in range(PER_STEP)],
        "is_param": kinds == 1,
        "logical_bytes": np.array(BYTES)[kinds],
        "storage_bytes": np.array(BYTES)[kinds],
        "version": random.integers(0, 2, PER_STEP),
        "action": ["kept"] * PER_STEP,
        "unpack_ns": start_ns + 2 * 10**9 - np.cumsum(random.integers(15_000, 500_000, PER_STEP)),
        "unpacked_count": np.ones(PER_STEP, dtype=np.int64),
    }


def records_of(step: int) -> Iterator[Save]:
    columns = {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in columns_of(step).items()
    }
    for name in ("shape", "stride"):  # as a tracer gives them
        columns[name] = [INTERNED[tuple(sizes)] for sizes in columns[name]]
    names = list(columns)
    for row in zip(*columns.values(), strict=True):
        yield Save(**dict(zip(names, row, strict=True)), unpack_stride=())


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':32}{'columns':>16}{'records':>16}"]
    for name in result["columns"]:
        cells = [result[way][name] for way in ("columns", "records")]
        lines.append(f"{name:32}" + "".join(f"{cell:>16,.2f}" for cell in cells))
    return "\n".join(lines)


STRIDES = [[int(np.prod(s[i + 1 :])) for i in range(len(s))] for s in SHAPES]
INTERNED = {tuple(sizes): tuple(sizes) for sizes in SHAPES + STRIDES}
MODULE_NAMES = [
    f"model.layers.{i // PER_LAYER}.{MODULES[i % PER_LAYER % len(MODULES)]}"
    for i in range(PER_STEP)
]

if __name__ == "__main__":
    main()
