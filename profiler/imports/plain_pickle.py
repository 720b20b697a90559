"""Reading a pickle of which nothing is known, without running any of it.

Contract: gives dicts, lists, tuples, sets, text, bytes, numbers, True, False and None, or a
ValueError that says why not. Opcodes that name, call or fill an object of a class, fetch a
persistent one or a buffer are not there at all. Memory and time are bounded by the file's size.
Boundary: what the values mean is the caller's to check: a list may contain itself, and numbers
may be of any size.

It is Python's own unpickler written in Python: the one in C keeps its memo as an array, which a
file of twenty bytes can make it allocate 64 GiB for.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 2 << 30
_FORBIDDEN = (
    pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.INST, pickle.OBJ, pickle.REDUCE, pickle.BUILD,
    pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2,
    pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.BYTEARRAY8,
)  # fmt: skip


class _PlainUnpickler(pickle._Unpickler):
    """Python's own, without anything that can reach a class."""

    dispatch = {  # noqa: RUF012 - the base class has it as a class attribute
        code: work
        for code, work in pickle._Unpickler.dispatch.items()
        if code not in {name[0] for name in _FORBIDDEN}
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for a persistent object")


def read_plain_pickle(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """Return what a pickle file of plain containers holds.

    Raises:
        ValueError: the file is missing, larger than `max_bytes`, damaged, or holds anything
            besides plain containers.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise ValueError(
                f"snapshot: got {str(file)!r} of {size:,} bytes, must be at most {max_bytes:,}; "
                "record fewer events (max_entries)"
            )
        data = file.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"snapshot: got {str(file)!r}, which cannot be read ({reason})") from None
    return parse_plain_pickle(data, str(file))


def parse_plain_pickle(data: bytes, name: str) -> Any:
    """As `read_plain_pickle`, of bytes."""
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except KeyError as error:  # an opcode that is not there
        code = error.args[0] if error.args else ""
        what = _opcode(code) if isinstance(code, int) else f"unknown key {code!r}"
        raise _refused(name, what) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _refused(name, f"{type(error).__name__}: {error}"[:200]) from None


def _opcode(code: int) -> str:
    names = {name[0]: name for name in _FORBIDDEN}
    if code in names:
        return f"opcode {names[code]!r} would build an object of a class"
    return f"opcode {code} is unknown"


def _refused(name: str, why: str) -> ValueError:
    return ValueError(
        f"snapshot: got {name!r}, which is no pickle of plain containers ({why}); "
        "give a file that torch.cuda.memory._dump_snapshot wrote"
    )
