"""Held-out perplexity after tuning to few bits, against the dense model tuned as long.

For each seed the dense model is tuned on the training text; the clustered one is tuned for the
same number of steps on the same sequences, distilled from that dense model (or, with
`--teacher-epochs`, from one tuned for so many passes), and measured with
every weight on its nearest centroid. Needs `$EDKM_DATA` (or ../shared/data). Prints a table, or
JSON with `--json`; recipes are options, so every try of docs/training.md is a command line. With
`--keep FOLDER` runs stay there: those that are finished are not tuned again, one that was cut off
goes on.

    python benchmarks/train.py --model stories260K [--bits 3] [--seeds 0 1 2] [--steps 300] ...
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edkm.train import TrainConfig, run
from edkm.train.checkpoint import latest, step_of
from profiler.machine import collect_hardware, collect_versions, utc_now

HERE = Path(__file__).resolve().parent.parent
# learning rate of the dense model; of the clustered one
RATES = {"stories260K": (1e-3, 3e-3), "stories3M": (1e-4, 5e-4)}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        for seed in options.seeds:
            dense = tune_dense(options, seed, folder)
            for bits in options.bits:
                rows.append(tune_clustered(options, seed, bits, dense, folder))
                print(line(rows[-1]), flush=True)
    result = {
        "benchmark": "train",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": {
            name: value if name != "teacher" else value and value.parent.name
            for name, value in vars(options).items()
            if name not in ("json", "out", "keep")
        },
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(RATES), default="stories260K")
    parser.add_argument("--bits", type=int, nargs="+", default=[3])
    parser.add_argument("--embedding-bits", type=int, default=8)
    parser.add_argument("--row-scale", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dense-steps", type=int, help="of the reference; default: as many")
    parser.add_argument("--dense-lr", type=float, help="default: by model")
    parser.add_argument("--lr", type=float, help="of the clustered model; default: by model")
    parser.add_argument("--tau", type=float, nargs=2, default=[2.0, 0.1])
    parser.add_argument("--straight", type=float, default=0.0)
    parser.add_argument("--compensate", type=int, default=0)
    parser.add_argument("--allocate", type=int, default=0, help="sequences; bits by sensitivity")
    parser.add_argument("--distill", type=float, default=0.9)
    parser.add_argument("--distill-hidden", type=float, default=0.0)
    parser.add_argument(
        "--teacher-epochs", type=float, default=0.0, help="of a teacher of the run's own"
    )
    parser.add_argument("--teacher-text", type=int, default=0, help="sequences that it writes")
    parser.add_argument("--teacher", type=Path, help="default: the dense model tuned as long")
    parser.add_argument("--keep", help="folder for the runs; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="also write JSON here")
    return parser.parse_args()


def base(options: argparse.Namespace, seed: int, out: Path) -> TrainConfig:
    data = Path(os.environ.get("EDKM_DATA", HERE.parent / "shared" / "data"))
    return TrainConfig(
        model=data / "models" / options.model,
        data=data / "text" / "tinystories_train.txt",
        heldout=data / "text" / "tinystories_heldout.txt",
        out=out,
        max_steps=options.steps,
        learning_rate=options.dense_lr or RATES[options.model][0],
        batch_size=8,
        sequence=256,
        dtype="float32",
        save_every=min(100, options.steps),
        log_every=50,
        seed=seed,
    )


def tune_dense(options: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    steps = options.dense_steps or options.steps
    config = replace(base(options, seed, folder), plain=True, max_steps=steps)
    config, metrics = tune(config, f"dense-{options.model}-{seed}")
    return {"folder": config.out / "model", **metrics}


def tune(config: TrainConfig, name: str) -> tuple[TrainConfig, dict[str, Any]]:
    """Do ``config``, in a folder of its own in ``config.out`` that tells its settings apart."""
    config = replace(config, out=config.out / f"{name}-{config.fingerprint()}")
    metrics = config.out / "metrics.json"
    newest = latest(config.checkpoints, config.fingerprint())
    if newest is not None and step_of(newest) == config.max_steps and metrics.is_file():
        return config, json.loads(metrics.read_text(encoding="utf-8"))
    return config, run(config, resume=True)


def tune_clustered(
    options: argparse.Namespace, seed: int, bits: int, dense: dict[str, Any], folder: Path
) -> dict[str, Any]:
    own = options.teacher_epochs > 0 or options.distill == 0
    config = replace(
        base(options, seed, folder),
        bits=bits,
        embedding_bits=options.embedding_bits,
        row_scale=options.row_scale,
        learning_rate=options.lr or RATES[options.model][1],
        tau_start=options.tau[0],
        tau_end=options.tau[1],
        straight=options.straight,
        compensate=options.compensate,
        allocate=options.allocate,
        distill=options.distill,
        distill_hidden=options.distill_hidden,
        teacher_text=options.teacher_text,
        teacher_epochs=options.teacher_epochs,
        teacher=options.teacher if own else options.teacher or dense["folder"],
    )
    _, metrics = tune(config, f"{options.model}-{bits}-{seed}")
    found, tuned = metrics["perplexity"], dense["perplexity"]["after"]
    return {
        "model": options.model,
        # bits that differ by weight are no setting of their own: their budget is
        "bits": None if options.allocate else bits,
        "embedding_bits": None if options.allocate else options.embedding_bits,
        "budget_bits": bits,
        "seed": seed,
        "perplexity_dense_tuned": tuned,
        "ratio": found["after_hard"] / tuned,
        **{f"perplexity_{name}": value for name, value in found.items()},
        "allocation": metrics["allocation"],
        "file_bytes": metrics["file_bytes"],
        "palette_bytes": metrics["palette_bytes"],
        "dense_file_bytes": dense["file_bytes"],
        "tuning_s": metrics["tuning_s"],
        "dense_tuning_s": dense["tuning_s"],
    }


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:12} {row['bits'] or 'mixed'} bits, seed {row['seed']}: dense tuned "
        f"{row['perplexity_dense_tuned']:.3f}, before {row['perplexity_before']:.1f}, after "
        f"{row['perplexity_after_hard']:.3f} ({row['ratio']:.3f}x), {row['file_bytes']:,} bytes"
    )


if __name__ == "__main__":
    main()
