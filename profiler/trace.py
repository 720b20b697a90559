"""`python -m profiler.trace`: the memory ablation of one layer, or any training script, traced.

Contract: exit code 0 after a full run (the script's own with a script), 2 for wrong use, 1 where
the machine gave out, 130 after Ctrl-C; after all but wrong use a readable run folder is left.
Boundary: reads the command line and prints. No measuring and no drawing here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from profiler.jobs import choose_job, ignored
from profiler.layer_run import STEPS_BESIDES_ROWS, LayerRun, Measured, run_layer
from profiler.layers import PRESETS
from profiler.program import Program, parse_steps, ranks, trace_program
from profiler.terminal import console, errors, progress, say

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

Dtype = Literal["bfloat16", "float16", "float32"]
LevelName = Literal["summary", "full", "values"]  # the tracer's, without importing torch here

_TYPED = "COMMANDLINE"  # how click calls the source of a value that was typed

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=_EPILOG, no_args_is_help=True)
def main(
    context: typer.Context,
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
    dtype: Annotated[Dtype, typer.Option(help="of the weights")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    tau: Annotated[
        float | None, typer.Option(help="softmax temperature; default: scaled to the weights")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of weights, gradients and centroids")] = 0,
    level: Annotated[
        LevelName, typer.Option(help="of a script: bytes per module, every save, or contents too")
    ] = "full",
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
    with errors(lambda: path):
        job = choose_job(layer, words, fake)
        if (note := ignored(job, _given(context))) is not None and ranks()[0] == 0:
            say(note, error=True)
        if job == "program":
            parsed, window = Program.parse(words), parse_steps(steps)
            path = _path(out, parsed.name)
            if fake:
                raise SystemExit(_plan_script(parsed, path, level, window, force))
            raise SystemExit(_trace_script(parsed, path, level, window, force))
        if job == "plan":
            path = _path(out, f"plan-{Path(model).name}")
            from profiler.plan import PlanSettings, plan_step

            settings = PlanSettings(
                model=model,
                batch=batch,
                length=length,
                dtype=dtype,
                optimizer=optimizer,
                lora=lora,
            )
            return _print_plan(plan_step(settings, path, force=force), path, as_json)
        assert layer is not None
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
            dtype=dtype,
            device=device,
            tau=tau,
            seed=seed,
        )
        with progress(len(run.configs) + STEPS_BESIDES_ROWS) as tell:
            measured = run_layer(run, path, tell, force=force, pictures=pictures)
    _print_ablation(measured, path, as_json)


def _given(context: typer.Context) -> list[str]:
    """The options that the command line itself names."""
    names = [(parameter.name or "", parameter.opts[-1]) for parameter in context.command.params]
    sources = ((option, context.get_parameter_source(name)) for name, option in names)
    return [option.lstrip("-") for option, source in sources if source and source.name == _TYPED]


def _allow_interrupts() -> None:
    """Shells start background jobs with SIGINT ignored: then nobody could stop us in order."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _path(out: str | None, name: str) -> Path:
    """The run folder; the ranks of one torchrun agree on it without talking."""
    together = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    stamp = together if together != "none" else time.strftime("%Y%m%d-%H%M%S")
    return Path(out or f"runs/{name}-{stamp}")


def _trace_script(
    program: Program,
    path: Path,
    level: LevelName,
    steps: tuple[int | None, int | None],
    force: bool,
) -> int:
    code = trace_program(program, path, level=level, steps=steps, force=force)
    if ranks()[0] == 0:
        _say_where(path, error=True)
    return code


def _plan_script(
    program: Program,
    path: Path,
    level: LevelName,
    steps: tuple[int | None, int | None],
    force: bool,
) -> int:
    """Plan a script's first steps; where fake tensors cannot follow it, say so and run it."""
    from profiler.plan_script import plan_script

    wanted = steps[1] or (steps[0] or 0) + 2
    code, problem = plan_script(program, path, steps=wanted, force=force)
    if problem is None:
        say(f"planned:  {path} (shapes only, nothing was computed)", error=True)
        return code
    say(
        f"--fake: the script cannot be planned to its end ({problem}); what was planned is in "
        f"{path}, and it is run for real now",
        error=True,
    )
    real = path.with_name(f"{path.name}-real")
    return _trace_script(program, real, level, steps, force)


def _say_where(path: Path, *, error: bool = False) -> None:
    say(f"run:      {path}", error=error)
    say(f"read it:  python -m profiler report {path}", error=error)


def _print_plan(plan: Plan, path: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**dataclasses.asdict(plan), "run": str(path)}, indent=1))
        return
    from profiler.reports.plan_text import plan_report

    console(100).print(plan_report(dataclasses.asdict(plan)))
    _say_where(path)


def _print_ablation(measured: Measured, path: Path, as_json: bool) -> None:
    for problem in measured.problems:
        say(f"warning: {problem}", error=True)
    if as_json:
        print(json.dumps({**measured.ablation, "run": str(path)}, indent=1))
        return
    from profiler.reports.text import ablation_report

    console(160).print(ablation_report(measured.ablation))
    say(f"run:      {path}")
    for picture in measured.pictures:
        if picture.suffix == ".png":
            say(f"picture:  {picture}")
    say("explore:  streamlit run dashboard/app.py")


if __name__ == "__main__":
    app()
