"""What the commands say to a person: lines, progress, and errors with an exit code.

Contract: errors are one line on standard error; a bar is drawn on a terminal and nowhere else.
Boundary: says what it is given. Tables are profiler.reports', exit codes the command's choice.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def console(width: int) -> Console:
    """Standard output: as wide as the terminal, or `width` columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else width)


def say(text: str, *, error: bool = False) -> None:
    """One line whatever its length: a path that wraps cannot be copied."""
    print(text, file=sys.stderr if error else sys.stdout)


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong, and end with that exit code (2: wrong use)."""
    say(f"error: {message}", error=True)
    raise SystemExit(code)


@contextlib.contextmanager
def errors(path: Callable[[], Path]) -> Iterator[None]:
    """Turn what can go wrong while a run is recorded at `path` into one line and an exit code."""
    try:
        yield
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail(f"interrupted; what was recorded so far is in {path()}", 130)
    except (MemoryError, RuntimeError) as error:
        fail(f"{error}; what was recorded so far is in {path()}", 1)


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar of so many steps; call what it gives at the start of each."""
    shown = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=shown, disable=not shown.is_terminal) as bar:
        task = bar.add_task("", total=steps)
        done = -1

        def tell(what: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=what, completed=done)

        yield tell
        bar.update(task, completed=steps)
