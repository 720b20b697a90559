"""Run somebody's training script, unchanged, under the tracer.

Contract: the program sees what it would see under `python script.py args` or `python -m module`:
its own `sys.argv`, `sys.path[0]`, `__main__` and `__file__`; its exit code is returned, and its
exceptions go to its own `sys.excepthook` without the frames of the profiler.
Boundary: runs it once, in this process; what is recorded is the tracer's business.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import runpy
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from profiler.tracer import Level, Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run: a script's path, or a module's name; and its arguments."""

    target: str
    module: bool
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Program:
        """Read `script.py args ...` or `-m module args ...`.

        Raises:
            ValueError: nothing to run, or no such script.
        """
        module = bool(words) and words[0] == "-m"
        rest = list(words[1:] if module else words)
        if not rest:
            raise ValueError(
                "program: none given; write it behind two dashes, "
                "as in: python -m profiler.trace -- train.py --epochs 1"
            )
        if module and not _is_importable(rest[0].partition(".")[0]):
            raise ValueError(
                f"module {rest[0]!r}: no such module; it must be installed or lie in this folder"
            )
        if not module and not Path(rest[0]).is_file():
            raise ValueError(f"script {rest[0]!r}: no such file; give a Python script's path")
        return cls(target=rest[0], module=module, arguments=tuple(rest[1:]))

    @property
    def name(self) -> str:
        """A short name for the run folder."""
        return self.target.rpartition(".")[2] if self.module else Path(self.target).stem

    def run(self, failed: Callable[[Exception], None] | None = None) -> int:
        """Run it to its end and return its exit code. KeyboardInterrupt passes through.

        `failed` is told of the exception that ended it, instead of its being printed.
        """
        before = list(sys.argv), list(sys.path), sys.modules["__main__"]
        sys.argv = [self.target, *self.arguments]
        try:
            if self.module:
                _put_first(os.getcwd())
                runpy.run_module(self.target, run_name="__main__", alter_sys=True)
            else:
                _put_first(str(Path(self.target).resolve().parent))
                _run_script(self.target)
        except SystemExit as stop:
            return _exit_code(stop)
        except Exception as error:
            (failed or _print_without_us)(error)
            return 1
        finally:
            sys.argv, sys.path[:], sys.modules["__main__"] = before
        return 0


def trace_program(
    program: Program,
    path: Path,
    *,
    level: Level,
    steps: tuple[int | None, int | None],
    force: bool,
) -> int:
    """Run `program` with a tracer around it; its exit code.

    Under torchrun every rank writes its share into the same folder.
    """
    from profiler.tracer import Tracer

    info = {
        "command": "profiler.trace",
        "argv": [program.target, *program.arguments],
        "program": program.target,
    }
    rank, world_size = ranks()
    with Tracer(
        path,
        level=level,
        steps=steps,
        info=info,
        force=force,
        rank=rank,
        world_size=world_size,
    ) as tracer:
        with _closed_before_exit(tracer):
            code = program.run()
        tracer.writer.describe(exit_code=code)
    return code


@contextlib.contextmanager
def _closed_before_exit(tracer: Tracer) -> Iterator[None]:
    """Close the run where the program ends itself by `os._exit`, past every handler."""
    leave, process = os._exit, os.getpid()

    def traced_exit(status: int) -> NoReturn:
        try:
            if os.getpid() == process and threading.current_thread() is threading.main_thread():
                tracer.writer.describe(exit_code=status)
                tracer.__exit__(None, None, None)
        finally:
            leave(status)

    os._exit = traced_exit
    try:
        yield
    finally:
        os._exit = leave


def ranks() -> tuple[int, int]:
    """This process and how many there are, as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def parse_steps(text: str | None) -> tuple[int | None, int | None]:
    """Read `A:B`, `A:` or `:B`: the first step to record and the one to stop before.

    Raises:
        ValueError: not of that form, negative, or empty.
    """
    if text is None:
        return None, None
    first, colon, stop = text.partition(":")
    try:
        bounds = (int(first) if first else None, int(stop) if stop else None)
    except ValueError:
        bounds, colon = (None, None), ""
    low, high = bounds
    if not colon or (low or 0) < 0 or (high is not None and high <= (low or 0)):
        raise ValueError(
            f"steps {text!r}: must be A:B with 0 <= A < B, as in 10:20 (10 is recorded, 20 is "
            "not); either may be left out"
        )
    return bounds


def _is_importable(name: str) -> bool:
    found = PathFinder.find_spec(name, [os.getcwd(), *sys.path])
    return found is not None or name in sys.builtin_module_names


def _put_first(folder: str) -> None:
    """Search for modules there first, instead of where `python -m profiler.trace` was started."""
    home = str(Path(__file__).parents[1])
    started_here = sys.path[:1] == [os.getcwd()] and os.getcwd() != home
    sys.path[: int(started_here)] = [folder]


def _run_script(target: str) -> None:
    """As `python target`: unlike `runpy.run_path`, __file__ is absolute and argv[0] is not."""
    path = os.path.abspath(target)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __cached__=None,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", path),
    )
    sys.modules["__main__"] = main
    exec(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True), main.__dict__)


def _exit_code(stop: SystemExit) -> int:
    """As Python itself: None is success, a text goes to stderr and is 1."""
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    print(stop.code, file=sys.stderr)
    return 1


def _print_without_us(error: Exception) -> None:
    trace = error.__traceback__
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
