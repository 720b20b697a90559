"""Words on a page: names shown as text, whatever is in them, and the command lines to copy.

Contract: what comes from a run folder is data; no mark-up in it ever takes effect.
Boundary: strings in, strings out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:@&])")


def literal(text: object) -> str:
    """`text` for a Markdown place, with every special character escaped, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def command_line(arguments: Sequence[str]) -> str:
    """The arguments of `python -m profiler.trace` as one line for a shell."""
    return shlex.join(["python", "-m", "profiler.trace", *arguments])
