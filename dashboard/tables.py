"""Tables of bytes: MiB as numbers that sort, with as many digits as the column needs.

Contract: bytes in, MiB (2**20) out; text columns are shown as text.
Boundary: formatting only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import streamlit as st

from profiler.reports.units import mib


def mib_value(count: int | None) -> float | None:
    """Bytes as MiB, to a millionth."""
    return None if count is None else round(mib(count), 6)


def mib_columns(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """Column settings for the MiB columns `names`: one decimal, four where all are small."""
    settings = {}
    for name in names:
        most = max((row.get(name) or 0 for row in rows), default=0)
        form = "%.1f" if most >= 100 or not most else "%.2f" if most >= 1 else "%.4f"
        settings[name] = st.column_config.NumberColumn(name, format=form)
    return settings


def source_words(source: str) -> str:
    """A source line, file name first: "model.py:12 in Block.forward"."""
    parts = source.rsplit(":", 2)
    if len(parts) != 3:
        return source
    file, line, function = parts
    return f"{file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{line} in {function}"


def shape_words(shape: Sequence[int]) -> str:
    """A shape as people write it: "4 x 64 x 64"; a scalar is "scalar"."""
    return " x ".join(map(str, shape)) if shape else "scalar"


def short_op(name: str) -> str:
    """The name of an autograd node without what all of them end in: "Mm" of "MmBackward0".

    Of a custom operation, which is "GeneratedBackwardFor_..._defaultBackward", its own name.
    """
    plain = name.rstrip("0123456789").removesuffix("Backward").lstrip("_")
    custom = plain.removeprefix("GeneratedBackwardFor_").removesuffix("_default")
    return custom or plain or name


def counted(count: int, word: str, plural: str = "") -> str:
    """ "1 box", "2 boxes"."""
    return f"{count} {word if count == 1 else plural or word + 's'}"
