"""``python -m edkm.compare``: every method at its own bits, in one table.

Contract: exit code 0 done, 1 some rows failed, 2 bad settings, 130 interrupted (finished rows are
kept; the same command goes on). Boundary: options and printing only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edkm.compare.plan import DEFAULT

_ERRORS = Console(stderr=True, soft_wrap=True, highlight=False)
EXAMPLES = """Examples:

python -m edkm.compare --model M --text-train A.txt --text-heldout B.txt --out runs/table

python -m edkm.compare ... --methods rtn,gptq,edkm --bits 3 --seeds 0,1,2 --steps 300 --jobs 2

python -m edkm.compare ... --methods gptq,gptq@4,tuned+gptq: as it is, with embeddings of 4 bits, of
the dense model tuned as long

The same command again runs only what is missing or failed. Needs the extra `compare`."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def main(
    model: Annotated[Path, typer.Option(help="folder of a transformers causal language model")],
    text_train: Annotated[Path, typer.Option(help="calibration and tuning text")],
    text_heldout: Annotated[Path, typer.Option(help="text that perplexity is measured on")],
    out: Annotated[Path, typer.Option(help="folder of comparison.json, table.md, picture.png")],
    methods: Annotated[
        str, typer.Option(help="[tuned+]METHOD[@EMBEDDING_BITS], by comma")
    ] = ",".join(DEFAULT),
    bits: Annotated[str, typer.Option(help="per weight of linear layers, by comma")] = "2,3,4",
    seeds: Annotated[str, typer.Option(help="by comma")] = "0",
    group_size: Annotated[int, typer.Option(help="weights that share a scale")] = 64,
    embedding_bits: Annotated[int, typer.Option(help="of embeddings, where no @ is given")] = 8,
    calibration: Annotated[int, typer.Option(help="sequences for post-training methods")] = 32,
    steps: Annotated[int, typer.Option(help="optimizer steps of trained methods")] = 150,
    batch: Annotated[int, typer.Option(help="sequences a step")] = 8,
    sequence: Annotated[int, typer.Option(help="tokens")] = 256,
    learning_rate: Annotated[float, typer.Option("--lr", help="of trained methods")] = 3e-4,
    dense_rate: Annotated[float, typer.Option("--dense-lr", help="of the dense row")] = 1e-4,
    preset: Annotated[str, typer.Option(help="edkm.train's, for the eDKM row")] = "quality",
    tasks: Annotated[
        Path | None, typer.Option(help="local rows for lm-eval; the first seed")
    ] = None,
    jobs: Annotated[int, typer.Option(help="rows at once, a thread each")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print comparison.json")] = False,
) -> None:
    """Compress one model by every method, measure the files, and write one table."""
    from edkm.compare.picture import picture
    from edkm.compare.plan import Settings
    from edkm.compare.report import table

    try:
        settings = Settings(
            model=model, text_train=text_train, text_heldout=text_heldout, out=out,
            methods=tuple(methods.split(",")), bits=numbers("bits", bits),
            seeds=numbers("seeds", seeds), group_size=group_size, embedding_bits=embedding_bits,
            calibration=calibration, steps=steps, batch=batch, sequence=sequence,
            learning_rate=learning_rate, dense_rate=dense_rate, preset=preset, tasks=tasks,
        )  # fmt: skip
        result = run(settings, jobs)
    except ValueError as error:
        _ERRORS.print(f"error: {error}", markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _ERRORS.print(f"interrupted; finished rows are in {out}, the same command goes on")
        raise typer.Exit(130) from error
    (out / "table.md").write_text(table(result), encoding="utf-8")
    picture(result, out / "picture.png")
    print(json.dumps(result, indent=1) if as_json else table(result), end="")
    if any(row["status"] != "done" for row in result["rows"]):
        raise typer.Exit(1)


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers by comma. ``ValueError`` names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}; give whole numbers by comma, as 2,3,4") from error


def run(settings: Any, jobs: int) -> dict[str, Any]:
    """The comparison under a progress bar; the estimate and failures as lines above it."""
    from edkm.compare.run import Progress as State
    from edkm.compare.run import compare

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=_ERRORS) as progress:
        bar = progress.add_task("measuring the model")
        announced = False

        def say(state: State) -> None:
            nonlocal announced
            names = "; ".join(
                f"{job.name}, {job.bits} bits, seed {job.seed}" for job in state.running
            )
            progress.update(bar, total=state.total, completed=state.done, description=names or None)
            if state.cpu_seconds is not None and not announced:
                announced = True
                cpu = state.cpu_seconds / 60
                together = f", {cpu / jobs:.0f} with {jobs} at once" if jobs > 1 else ""
                progress.console.print(
                    f"{state.total - state.done} rows to run: about {max(cpu, 1):.0f} min of "
                    f"processor{together}"
                )
            if (row := state.last) is not None and row["status"] != "done":
                name = f"{row['method']}, {row['bits']} bits, seed {row['seed']}"
                progress.console.print(f"{name}: {row['error']}", markup=False)

        return compare(settings, jobs=jobs, say=say)


if __name__ == "__main__":
    app()
