"""Makes all that is bundled: `python -m dashboard.bundled`, in the folder of the project.

Contract: every run is recorded by `profiler.trace` in a process of its own, its paths are made
relative, and only then it replaces the one that was there. Takes two minutes and 3 GiB of memory,
most of it for the ablation at the paper's size. The measured results are copied, not measured:
`python -m dashboard.bundled --results [FILE or FOLDER ...]` copies them alone.
Boundary: commands and folders; what is traced is `finetune`, or the ablation of one layer.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dashboard.bundled import RECORDED, RESULTS
from dashboard.bundled.scrub import scrub
from dashboard.quality import read_results

PROJECT = Path(__file__).parents[2]
MEASURED = PROJECT / "benchmarks" / "results"
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
    parser.add_argument(
        "--results", nargs="*", type=Path, metavar="PATH",
        help="only copy results: of these files and folders, by default benchmarks/results",
    )  # fmt: skip
    options = parser.parse_args()
    if options.results is not None:
        for file in copy_results(options.results or [MEASURED]):
            print(file)
        return
    if unknown := set(options.names) - set(RUNS):
        parser.error(f"{', '.join(sorted(unknown))}: no such run; choose from {', '.join(RUNS)}")
    for name in RUNS:
        if not options.names or name in options.names:
            print(record(name, options.out), flush=True)
    if options.out == RECORDED and not options.names:
        copy_results([MEASURED])


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


def copy_results(sources: Sequence[Path], into: Path = RESULTS) -> list[Path]:
    """Copies every file that has a perplexity of a compressed model; what was there before goes.

    sources: JSON files, or folders that are searched for them.

    Raises:
        ValueError: a file that was named has no perplexity, or there is none at all.
    """
    chosen: dict[str, Path] = {}
    for source in sources:
        files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
        for file in files:
            if has_quality(file):
                chosen[bundled_name(file)] = file
            elif file == source:
                raise ValueError(f"{file}: no row has a perplexity of a compressed model")
    if not chosen:
        raise ValueError(f"{', '.join(map(str, sources))}: no JSON file has a perplexity")
    into.mkdir(exist_ok=True)
    texts = {name: file.read_bytes() for name, file in chosen.items()}
    for old in into.glob("*.json"):
        old.unlink()
    for name, text in texts.items():
        (into / name).write_bytes(text)
    return [into / name for name in texts]


def has_quality(file: Path) -> bool:
    """Whether the page Quality has something to show of a file."""
    found = read_results(file, file.name)
    return any(row.bits and row.ppl is not None for each in found for row in each.rows)


def bundled_name(file: Path) -> str:
    """A name that says which: `comparison.json` of runs/a is `comparison_a.json`."""
    plain = file.stem in ("comparison", "metrics")
    return f"{file.stem}_{file.resolve().parent.name}.json" if plain else file.name


if __name__ == "__main__":
    main()
