"""Bytes, seconds and factors as people read them: MiB are 2**20 bytes, always.

Contract: pure functions from numbers to strings; None becomes an en dash.
Boundary: no rounding is applied to data, only to what is printed.
"""

from __future__ import annotations

MIB = 2**20
NOTHING = "\N{EN DASH}"


def mib(count: float) -> float:
    """`count` bytes in MiB."""
    return count / MIB


def format_mib(count: float | None) -> str:
    """Bytes as MiB with one digit, e.g. "544.0"; two significant digits under 1 MiB."""
    if count is None:
        return NOTHING
    value = mib(count)
    if value == 0 or value >= 0.95:
        return f"{value:.1f}"
    return f"{value:.2g}" if value >= 0.001 else "<0.001"


def format_bytes(count: int | None) -> str:
    """Bytes with the unit that fits, MiB at most, e.g. "1600 MiB", "1.5 KiB", "32 B"."""
    if count is None:
        return NOTHING
    if count >= MIB:
        return f"{round(mib(count), 1):g} MiB"
    if count >= 1024:
        return f"{round(count / 1024, 1):g} KiB"
    return f"{count} B"


def format_seconds(seconds: float | None) -> str:
    """Seconds with three significant digits, two under 1 s, e.g. "4.41", "0.052", "<0.001"."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.001:
        return "<0.001"
    return f"{seconds:.3g}" if seconds >= 0.995 else f"{seconds:.2g}"


def format_factor(factor: float | None) -> str:
    """A reduction factor, e.g. "23.5x"."""
    return NOTHING if factor is None else f"{factor:.1f}x"


def format_error(error: float | None) -> str:
    """A relative error: "0" when exact, else two significant digits."""
    if error is None:
        return NOTHING
    return "0" if error == 0 else f"{error:.1e}"
