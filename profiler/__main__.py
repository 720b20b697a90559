"""`python -m profiler`: what a recorded run says, and the run in other tools' formats.

Contract: exit code 0 when it worked, 1 for findings that `lint --fail-on` asked for, 2 for wrong
use. With --json, one JSON object on standard output and nothing else.
Boundary: reads the command line, calls analyses and exports, prints. Recording is profiler.trace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from profiler.query import Run, latest_run, list_runs, open_run
from profiler.terminal import console, fail, say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

_WIDTH = 160  # of a report where there is no terminal

T = TypeVar("T")
RunPath = Annotated[Path, typer.Argument(help="the run folder, or a folder of runs: its newest")]
Step = Annotated[int | None, typer.Option(help="default: the last step with saves")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command(epilog="Example: python -m profiler report runs/a --top 5")
def report(
    run: RunPath,
    step: Step = None,
    top: Annotated[int, typer.Option(min=1, help="lines per table")] = 15,
    as_json: AsJson = False,
) -> None:
    """Say what autograd saved in a step, which of it twice, and what crossed the bus."""
    from profiler.report import report as analysed
    from profiler.report import report_text

    found = _tried(lambda: analysed(_open(run), step))
    if as_json:
        _print_json(found.to_json())
    else:
        console(_WIDTH).print(report_text(found, top))


@app.command(epilog="Example: python -m profiler lint runs/a --fail-on error")
def lint(
    run: RunPath,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="note, warning, error or a rule's name: then exit with 1 (repeatable)"),
    ] = None,
    step: Annotated[int | None, typer.Option(help="one step only")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run shows to be wrong or wasteful; with --fail-on, as an exit code."""
    from profiler.analyses.lint import check_fail_on
    from profiler.analyses.lint import lint as analysed
    from profiler.reports.lint_text import lint_text

    wanted = sorted(_tried(lambda: check_fail_on(fail_on or [])))
    found = _tried(lambda: analysed(_open(run), step))
    if as_json:
        _print_json(found.to_json())
    else:
        console(_WIDTH).print(lint_text(found))
    if found.matching(wanted):
        raise typer.Exit(1)


@app.command(epilog="Example: python -m profiler diff runs/before runs/after")
def diff(
    a: Annotated[Path, typer.Argument(help="the run before")],
    b: Annotated[Path, typer.Argument(help="the run after")],
    step_a: Annotated[int | None, typer.Option(help="of a; default: the last with saves")] = None,
    step_b: Annotated[int | None, typer.Option(help="of b; default: the last with saves")] = None,
    top: Annotated[int, typer.Option(min=1, help="lines of the table")] = 15,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: what is kept and copied by which module, the largest change first."""
    from profiler.analyses.diff import diff as analysed
    from profiler.reports.diff_text import diff_text

    found = _tried(lambda: analysed(_open(a), _open(b), step_a, step_b))
    if as_json:
        _print_json(found.to_json())
    else:
        console(_WIDTH).print(diff_text(found, top))


@app.command(epilog="Example: python -m profiler html runs/a runs/b --out report.html")
def html(
    run: RunPath,
    other: Annotated[Path | None, typer.Argument(help="a second run to compare with")] = None,
    out: Annotated[Path | None, typer.Option(help="file; default: report.html in the run")] = None,
    step: Step = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: lint, memory, ledger, duplicates, traffic, what-if, diff."""
    from profiler.reports.html import html_report, write_html

    def written() -> Path:
        opened = _open(run)
        page = html_report(opened, _open(other) if other is not None else None, step)
        return write_html(page, out or opened.path / "report.html", force=force)

    path = _tried(written)
    if as_json:
        _print_json({"file": str(path), "bytes": path.stat().st_size})
    else:
        say(str(path))


@app.command(epilog="Example: python -m profiler whatif runs/a --offload 'model.layers.*'")
def whatif(
    run: RunPath,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="M: one copy per storage")] = False,
    uniquify: Annotated[bool, typer.Option("--uniquify", help="U: tables of 16-bit maps")] = False,
    shard: Annotated[int, typer.Option(min=1, help="S: learners to shard over")] = 1,
    offload: Annotated[
        list[str] | None, typer.Option(help="module (or pattern) whose saves go to the host")
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="module (or pattern) to compute again in backward")
    ] = None,
    every: Annotated[
        bool, typer.Option("--copy-every-save", help="no M: as save_on_cpu does")
    ] = False,
    beside: Annotated[
        Path | None, typer.Option(help="a run that did this, to compare with")
    ] = None,
    step: Step = None,
    as_json: AsJson = False,
) -> None:
    """Predict what a run would hold and move under other settings, without running it.

    Without settings: the usual ones. A module stands for everything inside it; "*" for all.
    """
    from profiler.analyses.whatif import Scenario, measured, what_if
    from profiler.reports.whatif_text import whatif_text

    def predicted() -> Any:
        wanted = Scenario(
            dedupe=dedupe or (bool(offload) and not every),
            every=every,
            uniquify=uniquify,
            shard=shard,
            offload=tuple(offload or ()),
            checkpoint=tuple(checkpoint or ()),
        )
        scenarios = None if wanted == Scenario() else [wanted]
        if scenarios is None and beside is not None:
            raise ValueError("beside: got a run, but no setting to compare it with; name one")
        real = measured(_open(beside)) if beside is not None else None
        return what_if(_open(run), scenarios, step, beside=real)

    found = _tried(predicted)
    if as_json:
        _print_json(found.to_json())
    else:
        console(_WIDTH).print(whatif_text(found))


@app.command(epilog="Example: python -m profiler export runs/a perfetto --out trace.json")
def export(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN [FORMAT]...", help="'formats' lists them; default: all"),
    ],
    out: Annotated[Path | None, typer.Option(help="file; default: exports/ in the run")] = None,
    step: Annotated[int | None, typer.Option(help="one step only")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run for Perfetto, memory_viz, Model Explorer, a graph tool or a flame graph."""
    from profiler.exports import export as write
    from profiler.exports import run_and_formats

    def written() -> dict[str, Path]:
        path, kinds = run_and_formats(words, out)
        run = _open(Path(path))
        return {kind: write(run, kind, out, step=step, force=force) for kind in kinds}

    files = _tried(written)
    if as_json:
        rows = [
            {"format": kind, "file": str(file), "bytes": file.stat().st_size}
            for kind, file in files.items()
        ]
        _print_json(rows[0] if len(rows) == 1 else {"files": rows})
        return
    for file in files.values():
        say(str(file))


@app.command("import", epilog="Example: python -m profiler import snapshot.pickle --out runs/a")
def import_(
    file: Annotated[Path, typer.Argument(help="a PyTorch memory snapshot (pickle)")],
    out: Annotated[Path, typer.Option(help="the run folder to make")],
    force: Annotated[bool, typer.Option("--force", help="replace an existing run")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a run of a PyTorch memory snapshot. Nothing in the file is executed."""
    from profiler.imports import import_snapshot

    path = _tried(lambda: import_snapshot(file, out, force=force))
    if as_json:
        _print_json({"run": str(path)})
    else:
        say(str(path))


@app.command(epilog="Example: python -m profiler formats --json")
def formats(as_json: AsJson = False) -> None:
    """List the formats of export."""
    from profiler.exports import FORMATS

    names = {name: suffix for name, (_, suffix) in FORMATS.items()}
    if as_json:
        _print_json(names)
    else:
        for name, suffix in names.items():
            say(f"{name:20} {suffix}")


@app.command(epilog="Example: python -m profiler runs runs/")
def runs(
    root: Annotated[Path, typer.Argument(help="folder of runs")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder, newest first."""
    rows = [_described(path) for path in list_runs(root)]
    if as_json:
        _print_json({"runs": rows})
        return
    for row in rows:
        say(f"{row['path']}  {row['created'] or ''}  {row['note'] or ''}".rstrip())


def _described(path: Path) -> dict[str, Any]:
    try:
        run = open_run(path)
        return {"path": str(path), "created": run.info.get("created"), "note": run.note}
    except ValueError as error:
        return {"path": str(path), "created": None, "note": str(error)}


def _open(path: Path) -> Run:
    """Open a run, or the newest of a folder of runs."""
    if not (path / "run.json").exists() and (newest := latest_run(path)) is not None:
        path = newest
    return open_run(path)


def _tried(work: Callable[[], T]) -> T:
    try:
        return work()
    except ValueError as error:
        fail(str(error))


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    app()
