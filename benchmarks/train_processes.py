"""The same training on 1, 2 and 4 gloo processes: equality, bytes held, bytes received.

Each run is the command itself, `torchrun --nproc-per-node N -m edkm.train --fsdp`, one torch
thread a process. Weights are compared with those of one process; bytes received a step with what
FSDP2 must send: a gather of all weights forwards and of the layers' backwards, the gradients once,
and of what is shared out the other processes' parts. In bfloat16, where clustering saves tables,
further runs have `--shard-saved`, and must end with the very weights of the run without it.

    python benchmarks/train_processes.py --model ../shared/data/models/stories3M [--json] [--out F]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from profiler.machine import collect_hardware, collect_versions, utc_now


def main() -> None:
    options = parse_options()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        heldout = Path(folder) / "heldout.txt"
        heldout.write_text(options.heldout.read_text(encoding="utf-8")[: options.heldout_chars])
        for dtype in options.dtypes:
            rows += compared(options, dtype, heldout, Path(folder))
    hidden = ("json", "out")
    result = {
        "benchmark": "train_processes",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": {
            k: v.name if isinstance(v, Path) else v
            for k, v in vars(options).items()
            if k not in hidden
        },
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text if options.json else table(rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("EDKM_DATA", "../shared/data"))
    parser.add_argument("--model", type=Path, default=data / "models/stories260K")
    parser.add_argument("--data", type=Path, default=data / "text/tinystories_train.txt")
    parser.add_argument("--heldout", type=Path, default=data / "text/tinystories_heldout.txt")
    parser.add_argument("--heldout-chars", type=int, default=20_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=4, help="sequences, of all processes")
    parser.add_argument("--sequence", type=int, default=256, help="tokens")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="also write JSON here")
    options = parser.parse_args()
    if options.processes[0] != 1:
        parser.error("--processes must begin with 1, which the others are compared with")
    return options


def compared(
    options: argparse.Namespace, dtype: str, heldout: Path, folder: Path
) -> list[dict[str, Any]]:
    """One row a run of ``dtype``."""
    rows: list[dict[str, Any]] = []
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for shares in (False, True) if dtype == "bfloat16" else (False,):
        for processes in options.processes[1:] if shares else options.processes:
            out = folder / f"{dtype}-{processes}-{shares}"
            row = run(options, dtype, processes, shares, heldout, out)
            ends = trained(out)
            if shares:
                same = all(torch.equal(ends[name], w) for name, w in weights[processes].items())
                row["equal_to_unshared"] = same
            else:
                weights[processes] = ends
            row["weights_relative_difference_max"] = max(
                float((ends[name].double() - w.double()).norm() / w.double().norm())
                for name, w in weights[1].items()
            )
            one = row if not rows else rows[0]
            found, first = row["perplexity"], one["perplexity"]
            row["perplexity_relative_difference_max"] = max(
                abs(found[name] / value - 1) for name, value in first.items()
            )
            row["received_bytes_predicted"] = predicted(ends, processes, row)
            rows.append(row)
    return rows


def run(
    options: argparse.Namespace, dtype: str, processes: int, shares: bool, heldout: Path, out: Path
) -> dict[str, Any]:
    """The command's metrics."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "-m", "edkm.train", "--fsdp"),
        *("--model", str(options.model), "--data", str(options.data), "--heldout", str(heldout)),
        *("--out", str(out), "--max-steps", str(options.steps), "--dtype", dtype),
        *("--batch-size", str(options.batch_size), "--sequence", str(options.sequence)),
        *("--lr", str(options.lr), "--save-every", str(options.steps)),
        *(("--shard-saved",) if shares else ()),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    kept = (
        *("perplexity", "state_bytes_per_rank_max", "received_bytes_per_step", "tuning_s"),
        "peak_resident_bytes_per_rank",
    )
    return {
        "dtype": dtype,
        "processes": processes,
        "shard_saved": shares,
        **{name: metrics[name] for name in kept},
        "shared_saved_bytes": metrics.get("shared_saved_bytes", 0),
        "host_bytes_per_rank_max": metrics.get("shared_saved_bytes_per_rank_max", 0),
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def trained(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint, before they are rounded to their centroids."""
    (checkpoint,) = (out / "checkpoints").glob("checkpoint-*")
    whole = out / "whole.pt"
    dcp_to_torch_save(checkpoint, whole)
    state = torch.load(whole)
    return {name: value for name, value in state.items() if name.startswith("weight.")}


def predicted(weights: dict[str, torch.Tensor], processes: int, row: dict[str, Any]) -> int:
    """Bytes that a process must receive in a step of one forward."""
    whole = sum(w.nbytes for w in weights.values())
    layers = sum(w.nbytes for name, w in weights.items() if ".layers." in name)
    # forwards, backwards, gradients; and what was shared out
    payload: int = whole + layers + whole + row["shared_saved_bytes"]
    return round(payload * (processes - 1) / processes)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "dtype     processes  shared  perplexity  differs   weights differ   state bytes   "
        "host bytes   received (predicted)"
    ]
    for row in rows:
        lines.append(
            f"{row['dtype']:9} {row['processes']:9} {row['shard_saved']!s:>7}  "
            f"{row['perplexity']['after_hard']:10.4f}  "
            f"{row['perplexity_relative_difference_max']:7.1e}  "
            f"{row['weights_relative_difference_max']:15.1e} "
            f"{row['state_bytes_per_rank_max']:13,} {row['host_bytes_per_rank_max']:12,} "
            f"{row['received_bytes_per_step']:12,} ({row['received_bytes_predicted']:,})"
            + ("" if row.get("equal_to_unshared", True) else "  NOT EQUAL to the run unshared")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
