"""``python -m edkm.train``: fine-tune and compress a language model.

Contract: exit code 0 done, 2 bad settings or data, 3 the loss diverged, 4 the disk refused, 5
another process of a sharded run was lost, 130 interrupted.
Errors are one line on stderr. Boundary: options and printing only; the run is ``edkm.train.job``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PLUGINS = "edkm.train.callbacks"  # entry points that make TrainerCallbacks
_ERRORS = Console(stderr=True, soft_wrap=True, highlight=False)

_EPILOG = """
Examples:

python -m edkm.train --model path/to/llama --data alpaca.json --out runs/tuned --bits 3 --lr 1e-4

python -m edkm.train ... --out runs/tuned --resume

torchrun --nproc-per-node 2 -m edkm.train ... --fsdp
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=_EPILOG)
def main(
    model: Annotated[Path, typer.Option(help="folder of a transformers causal language model")],
    data: Annotated[Path, typer.Option(help="Alpaca or self-instruct .json/.jsonl, or text")],
    out: Annotated[Path, typer.Option(help="folder of the result")],
    heldout: Annotated[Path | None, typer.Option(help="data to measure on")] = None,
    preset: Annotated[
        str, typer.Option(help="default, quality, or paper: its settings")
    ] = "default",
    bits: Annotated[int | None, typer.Option(help="per weight, 1 to 8 (3)")] = None,
    embedding_bits: Annotated[int | None, typer.Option(help="per embedding weight (8)")] = None,
    include: Annotated[list[str] | None, typer.Option(help="module names or patterns")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="module names or patterns")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over the data (2)")] = None,
    max_steps: Annotated[int | None, typer.Option(help="optimizer steps, instead")] = None,
    batch_size: Annotated[int | None, typer.Option(help="sequences per forward (8)")] = None,
    accumulate: Annotated[int | None, typer.Option(help="forwards per step (1)")] = None,
    sequence: Annotated[int | None, typer.Option(help="tokens per sequence (256)")] = None,
    packing: Annotated[bool | None, typer.Option(help="several examples a sequence")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="peak (5e-5)")] = None,
    warmup: Annotated[int | None, typer.Option(help="steps of warm-up (10)")] = None,
    tau_start: Annotated[float | None, typer.Option(help="multiple of var(W)/K^2")] = None,
    tau_end: Annotated[float | None, typer.Option(help="multiple of var(W)/K^2")] = None,
    straight: Annotated[float | None, typer.Option(help="share of hard steps at the end")] = None,
    compensate: Annotated[int | None, typer.Option(help="sequences to round for, first")] = None,
    allocate: Annotated[int | None, typer.Option(help="sequences to spread bits by, first")] = None,
    row_scale: Annotated[bool | None, typer.Option(help="a scale for each row")] = None,
    form: Annotated[str | None, typer.Option(help="auto, dense, fused, streaming: of DKM")] = None,
    group_size: Annotated[int | None, typer.Option(help="rows that share a codebook")] = None,
    distill: Annotated[float | None, typer.Option(help="weight of a teacher's targets")] = None,
    distill_hidden: Annotated[float | None, typer.Option(help="weight of its states (0)")] = None,
    teacher: Annotated[Path | None, typer.Option(help="dense teacher's folder")] = None,
    teacher_epochs: Annotated[float | None, typer.Option(help="tune a teacher first")] = None,
    teacher_rate: Annotated[float | None, typer.Option(help="its learning rate (1e-4)")] = None,
    teacher_text: Annotated[int | None, typer.Option(help="sequences that it writes")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16")] = None,
    seed: Annotated[int | None, typer.Option(help="of order and initial centroids (0)")] = None,
    save_every: Annotated[int | None, typer.Option(help="steps between checkpoints")] = None,
    log_every: Annotated[int | None, typer.Option(help="steps between log entries")] = None,
    plain: Annotated[bool, typer.Option(help="do not cluster: the baseline")] = False,
    dense: Annotated[bool, typer.Option(help="also write a plain dense folder")] = False,
    offload: Annotated[bool, typer.Option(help="keep saved tensors on the host")] = False,
    shard_saved: Annotated[bool, typer.Option(help="share out equal saved tensors")] = False,
    fsdp: Annotated[bool, typer.Option(help="shard over torchrun's processes")] = False,
    patience: Annotated[float | None, typer.Option(help="minutes to wait for another (10)")] = None,
    tensorboard: Annotated[bool, typer.Option(help="log for TensorBoard")] = False,
    resume: Annotated[bool, typer.Option(help="go on from the newest checkpoint")] = False,
    trace: Annotated[Path | None, typer.Option(help="record with the profiler here")] = None,
    callback: Annotated[list[str] | None, typer.Option(help="MODULE:NAME, further")] = None,
) -> None:
    """Fine-tune a language model while its weights are clustered, and write it compressed."""
    settings = {k: v for k, v in locals().items() if k not in ("preset", "resume", "trace")}
    extra = settings.pop("callback") or []
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    from edkm.train.errors import DivergedError, PeerLostError

    try:
        metrics = _run(preset, settings, resume, trace, extra)
    except DivergedError as error:
        raise _fail(error, 3) from error
    except PeerLostError as error:
        raise _fail(error, 5) from error
    except ValueError as error:
        raise _fail(error, 2) from error
    except KeyboardInterrupt:
        raise _fail(f"interrupted; --resume goes on from the checkpoints in {out}", 130) from None
    except OSError as error:
        raise _fail(f"{error}; earlier checkpoints in {out} are intact", 4) from error
    if metrics:
        if metrics["allocation"]:
            Console().print(bits_table(metrics["allocation"]["shares"]))
        Console().print(summary(metrics))


def _run(
    preset: str, settings: dict[str, Any], resume: bool, trace: Path | None, extra: list[str]
) -> dict[str, Any]:
    from edkm.train.config import with_preset

    config = with_preset(preset, settings)
    callbacks = [_load_callback(name) for name in extra]
    if trace is not None:
        callbacks.append(_plugin("trace")(trace))
    console = Console(stderr=True)
    first = os.environ.get("RANK", "0") == "0" or not config.fsdp
    if first:
        from edkm.train.progress import ProgressCallback

        callbacks.append(ProgressCallback(console))
    start: Any
    if config.fsdp:
        from edkm.train.sharded import run_sharded as start
    else:
        from edkm.train.job import run as start
    with contextlib.ExitStack() as stack:
        for one in callbacks:  # a callback that must tidy up after a failed run is entered
            if isinstance(one, contextlib.AbstractContextManager):
                stack.enter_context(one)
        found: dict[str, Any] = start(config, resume=resume, callbacks=callbacks, say=console.print)
        return found


def _plugin(name: str) -> Any:
    """What another package registered as ``edkm.train.callbacks`` ``name``."""
    found = entry_points(group=PLUGINS, name=name)
    if not found:
        raise ValueError(
            f"--{name} needs a package that registers the entry point {name!r} in {PLUGINS!r}; "
            "install the profiler beside this package (pip install -e .), or leave the option out"
        )
    return next(iter(found)).load()


def _load_callback(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"callback {name!r}: {error}; give MODULE:NAME of a TrainerCallback"
        ) from error


def summary(metrics: dict[str, Any]) -> Table:
    """Held-out perplexities and sizes as a table."""
    table = Table(title="held-out perplexity")
    table.add_column("model")
    table.add_column("perplexity", justify="right")
    for name, value in metrics["perplexity"].items():
        table.add_row(name.replace("_", ", "), f"{value:.3f}")
    table.add_row("file, bytes", f"{metrics['file_bytes']:,}")
    return table


def bits_table(shares: list[dict[str, Any]]) -> Table:
    """How the bits were spread, and what each weight's rounding was measured to cost."""
    table = Table(title="bits by sensitivity, in the bytes of the uniform bits")
    for column in ("weight", "weights", "bits, uniform", "nats a token", "bits", "nats a token"):
        table.add_column(column, justify="left" if column == "weight" else "right")
    for share in shares:
        table.add_row(
            share["modules"][0],
            f"{share['weights']:,}",
            str(share["uniform_bits"]),
            f"{share['cost']:.4f}",
            str(share["bits"]),
            f"{share['predicted']:.4f}",
        )
    return table


def _fail(error: object, code: int) -> typer.Exit:
    _ERRORS.print(f"error: {error}", markup=False)
    return typer.Exit(code)


def _process() -> None:
    """Run the command; after a sharded run leave without the interpreter's own shutdown.

    A worker thread of gloo may still hold tensors then. It frees them while the interpreter goes
    down, and that aborts the process (SIGABRT) after all work is done: pytorch/pytorch#190489.
    """
    try:
        app()
    except SystemExit as done:
        if "edkm.train.sharded" not in sys.modules:
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(done.code if isinstance(done.code, int) else 0)


if __name__ == "__main__":
    _process()
