"""What people read: MiB of 2**20 bytes, few digits, never an exponent for a size or a time."""

from __future__ import annotations

import pytest

from profiler.reports import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.0"), (100, "<0.001"), (8192, "0.0078"), (2**19, "0.5"), (2**20, "1.0"),
        (1600 * 2**20, "1600.0"), (None, units.NOTHING),
    ],
)  # fmt: skip
def test_mib(count: int | None, text: str) -> None:
    assert units.format_mib(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**28, "256 MiB"), (2**31, "2048 MiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert units.format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.0004, "<0.001"), (0.00631, "0.0063"), (0.515, "0.52"), (0.996, "0.996"),
     (8.67, "8.67"), (123.4, "123"), (None, units.NOTHING)],
)  # fmt: skip
def test_seconds(seconds: float | None, text: str) -> None:
    assert units.format_seconds(seconds) == text


def test_factors_and_errors() -> None:
    assert units.format_factor(23.529) == "23.5x"
    assert units.format_error(0.0) == "0"
    assert units.format_error(1.7e-3) == "1.7e-03"
    assert units.format_factor(None) == units.format_error(None) == units.NOTHING
