"""Makes the bundled runs: `python -m dashboard.bundled`, in the folder of the project.

Contract: every run is recorded by `profiler.trace` in a process of its own, its paths are made
relative, and only then it replaces the one that was there. Takes two minutes and 3 GiB of memory,
most of it for the ablation at the paper's size.
Boundary: commands and folders; what is traced is `finetune`, or the ablation of one layer.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dashboard.bundled import RECORDED, RESULTS
from dashboard.bundled.scrub import scrub

PROJECT = Path(__file__).parents[2]
SCRIPT = "dashboard/bundled/finetune.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CONFIGS = "none,M,U,S,M+S,M+U,U+S,M+U+S,fused"
TRACE, WARM = "profiler.trace", "dashboard.bundled.warm"
# Launcher and arguments. The last one is the newest, and so the one that a first start shows.
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bundled-attn0": (
        ("-m", TRACE),
        ("--layer", "attn0", "--model", "llama-7b", "--no-pictures", "--configs", CONFIGS),
    ),
    "bundled-two-ranks": ((*TORCHRUN, "-m", WARM), ("--", SCRIPT, "--steps", "2")),
    "bundled-offloaded": (("-m", WARM), ("--", SCRIPT, "--offload")),
    "bundled-checkpointed": (("-m", WARM), ("--", SCRIPT, "--checkpoint")),
    "bundled-finetune": (("-m", WARM), ("--", SCRIPT)),
}


def main() -> None:
    """Records what is asked for, all of it by default."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--out", type=Path, default=RECORDED, help="folder of the runs")
    options = parser.parse_args()
    if unknown := set(options.names) - set(RUNS):
        parser.error(f"{', '.join(sorted(unknown))}: no such run; choose from {', '.join(RUNS)}")
    for name in RUNS:
        if not options.names or name in options.names:
            print(record(name, options.out), flush=True)
    if options.out == RECORDED:
        copy_results()


def record(name: str, out: Path) -> Path:
    """Records one run into `out`; its folder."""
    launcher, arguments = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / name
        command = [sys.executable, *launcher, "--out", str(run), *arguments]
        subprocess.run(command, cwd=PROJECT, check=True)
        scrub(run, PROJECT)
        shutil.rmtree(out / name, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run, out / name)
    return out / name


def copy_results() -> None:
    """The project's own measurements of quality, as they are."""
    RESULTS.mkdir(exist_ok=True)
    for pattern in ("train_*.json", "compar*.json"):
        for file in sorted((PROJECT / "benchmarks" / "results").glob(pattern)):
            shutil.copyfile(file, RESULTS / file.name)


if __name__ == "__main__":
    main()
