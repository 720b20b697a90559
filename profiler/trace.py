"""`python -m profiler.trace`: the memory ablation of one layer, or any training script, traced.

Contract: exit code 0 after a full run (the script's own with a script), 2 for wrong use, 1 where
the machine gave out, 130 after Ctrl-C; after all but wrong use a readable run folder is left.
Boundary: reads the command line and prints. No measuring and no drawing here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from profiler.layer_run import STEPS_BESIDES_ROWS, LayerRun, Measured, run_layer
from profiler.layers import PRESETS
from profiler.program import Program, parse_steps, ranks, trace_program

if TYPE_CHECKING:
    from profiler.plan import Plan

DEFAULT_ROWS = "none,M,M+S,M+U,M+U+S,fused"
_EPILOG = """
Examples:

python -m profiler.trace --layer attn0

python -m profiler.trace --layer mlp3 --matrix down_proj --model llama-1b --bits 4

python -m profiler.trace --layer attn0 --model path/to/llama --text some.txt --json

python -m profiler.trace --steps 10:12 -- train.py --epochs 1

python -m profiler.trace --fake --model llama-7b --length 2048 --lora 16

torchrun --nproc-per-node 2 -m profiler.trace --out runs/both -- train.py
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Dtype(StrEnum):
    """What the weights are made of."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class LevelName(StrEnum):
    """How much is recorded."""

    summary = "summary"
    full = "full"
    values = "values"


@app.command(epilog=_EPILOG, no_args_is_help=True)
def main(
    program: Annotated[
        list[str] | None,
        typer.Argument(help="behind --: a training script and its arguments, or -m module"),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="ablate one layer: attn0, attn1, ... or mlp0, mlp1, ...")
    ] = None,
    model: Annotated[
        str, typer.Option(help=f"{', '.join(PRESETS)}, or a folder with a LLaMA checkpoint")
    ] = "llama-7b",
    matrix: Annotated[
        str | None,
        typer.Option(help="q_proj, ..., or all; default: first of a preset, all of a checkpoint"),
    ] = None,
    bits: Annotated[int, typer.Option(help="1 to 8; 2**bits clusters")] = 3,
    iterations: Annotated[int, typer.Option(help="k-means updates in the step")] = 1,
    learners: Annotated[int, typer.Option(help="learners that S shards over (simulated)")] = 8,
    configs: Annotated[str, typer.Option(help="rows, by comma; also U, S, U+S")] = DEFAULT_ROWS,
    text: Annotated[
        str | None, typer.Option(help="text that a checkpoint trains on; default: random tokens")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="sequences per step of a checkpoint")] = 2,
    length: Annotated[int, typer.Option(min=2, help="tokens per sequence")] = 256,
    dtype: Annotated[Dtype, typer.Option(help="of the weights")] = Dtype.bfloat16,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    tau: Annotated[
        float | None, typer.Option(help="softmax temperature; default: scaled to the weights")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of weights, gradients and centroids")] = 0,
    level: Annotated[
        LevelName, typer.Option(help="of a script: bytes per module, every save, or contents too")
    ] = LevelName.full,
    fake: Annotated[
        bool, typer.Option("--fake", help="plan with shapes only; nothing is computed")
    ] = False,
    lora: Annotated[
        int | None, typer.Option(help="with --fake: rank of adapters; default: full fine-tuning")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="with --fake: adamw or sgd")] = "adamw",
    steps: Annotated[
        str | None, typer.Option(help="of a script: A:B records steps A to B-1", metavar="A:B")
    ] = None,
    module: Annotated[
        str | None, typer.Option("-m", help="a module to run instead of a script", metavar="NAME")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="run folder; default: runs/NAME-DATE-TIME")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing run")] = False,
    pictures: Annotated[bool, typer.Option(help="draw PNG and SVG into the run folder")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print ablation.json")] = False,
) -> None:
    """Measure what autograd keeps for backward: of one clustered layer, or of any script.

    --layer: one layer's weights are clustered with M, U and S on and off. M: marshaling, one copy
    of what several saved tensors share. U: uniquification, a table and an index list instead of a
    map. S: sharding over learners. fused: no map at all. See the paper, arXiv 2309.00964.
    """
    words = (["-m", module] if module else []) + (program or [])
    path = _path(out, layer or "run")
    with _errors(lambda: path):
        _check_what(layer, words, fake)
        if words:
            parsed, window = Program.parse(words), parse_steps(steps)
            path = _path(out, parsed.name)
            if fake:
                raise SystemExit(_plan_script(parsed, path, level.value, window, force))
            raise SystemExit(_trace_script(parsed, path, level.value, window, force))
        if layer is None:
            path = _path(out, f"plan-{Path(model).name}")
            from profiler.plan import PlanSettings, plan_step

            settings = PlanSettings(
                model=model,
                batch=batch,
                length=length,
                dtype=dtype.value,
                optimizer=optimizer,
                lora=lora,
            )
            return _print_plan(plan_step(settings, path, force=force), path, as_json)
        _allow_interrupts()
        run = LayerRun(
            layer=layer,
            model=model,
            matrix=matrix,
            bits=bits,
            iterations=iterations,
            learners=learners,
            configs=tuple(name.strip() for name in configs.split(",") if name.strip()),
            text=text,
            batch=batch,
            length=length,
            dtype=dtype.value,
            device=device,
            tau=tau,
            seed=seed,
        )
        with _progress(len(run.configs) + STEPS_BESIDES_ROWS) as tell:
            measured = run_layer(run, path, tell, force=force, pictures=pictures)
    _print_ablation(measured, path, as_json)


def _allow_interrupts() -> None:
    """Shells start background jobs with SIGINT ignored: then nobody could stop us in order."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_what(layer: str | None, words: list[str], fake: bool) -> None:
    """One thing to trace: a layer, a program, or the plan of a model."""
    if layer is not None and (words or fake):
        other = "a program" if words else "--fake"
        raise ValueError(f"what to trace: give either --layer or {other}, not both")
    if layer is None and not words and not fake:
        raise ValueError(
            "what to trace: give --layer attn0, or a program behind two dashes, or --fake with a "
            "--model; see --help"
        )


def _path(out: str | None, name: str) -> Path:
    """The run folder; the ranks of one torchrun agree on it without talking."""
    together = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    stamp = together if together != "none" else time.strftime("%Y%m%d-%H%M%S")
    return Path(out or f"runs/{name}-{stamp}")


def _trace_script(
    program: Program,
    path: Path,
    level: str,
    steps: tuple[int | None, int | None],
    force: bool,
) -> int:
    from profiler.tracer import LEVELS

    (known,) = (name for name in LEVELS if name == level)
    code = trace_program(program, path, level=known, steps=steps, force=force)
    if ranks()[0] == 0:
        console = Console(stderr=True)
        _line(console, f"run:      {path}")
        _line(console, f"read it:  python -m profiler report {path}")
    return code


def _plan_script(
    program: Program,
    path: Path,
    level: str,
    steps: tuple[int | None, int | None],
    force: bool,
) -> int:
    """Plan a script's first steps; where fake tensors cannot follow it, say so and run it."""
    from profiler.plan_script import plan_script

    wanted = steps[1] or (steps[0] or 0) + 2
    code, problem = plan_script(program, path, steps=wanted, force=force)
    if problem is None:
        print(f"planned:  {path} (shapes only, nothing was computed)", file=sys.stderr)
        return code
    print(
        f"--fake: the script cannot be planned to its end ({problem}); what was planned is in "
        f"{path}, and it is run for real now",
        file=sys.stderr,
    )
    real = path.with_name(f"{path.name}-real")
    return _trace_script(program, real, level, steps, force)


def _line(console: Console, text: str) -> None:
    """One line whatever its length: a path that wraps cannot be copied."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_plan(plan: Plan, path: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**dataclasses.asdict(plan), "run": str(path)}, indent=1))
        return
    from profiler.reports.plan_text import plan_report

    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(plan_report(dataclasses.asdict(plan)))
    _line(console, f"run:      {path}")
    _line(console, f"read it:  python -m profiler report {path}")


@contextlib.contextmanager
def _errors(path: Callable[[], Path]) -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code."""
    try:
        yield
    except ValueError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(f"interrupted; what was recorded so far is in {path()}", 130)
    except (MemoryError, RuntimeError) as error:
        _fail(f"{error}; what was recorded so far is in {path()}", 1)


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal, nothing elsewhere; call what it gives at the start of each step."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)
        done = -1

        def tell(what: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=what, completed=done)

        yield tell
        bar.update(task, completed=steps)


def _print_ablation(measured: Measured, path: Path, as_json: bool) -> None:
    for problem in measured.problems:
        print(f"warning: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps({**measured.ablation, "run": str(path)}, indent=1))
        return
    from profiler.reports.text import ablation_report

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(ablation_report(measured.ablation))
    _line(console, f"run:      {path}")
    for picture in measured.pictures:
        if picture.suffix == ".png":
            _line(console, f"picture:  {picture}")
    console.print("explore:  streamlit run dashboard/app.py", highlight=False)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    app()
