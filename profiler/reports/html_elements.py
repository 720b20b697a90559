"""The few pieces that a page of ours is made of: escaped text, tables, bars, a stacked area.

Contract: every piece is a string of HTML or SVG in which whatever came from a run is text, control
characters made visible; colours are CSS variables or the theme's. No script, no link, no image.
Boundary: knows nothing of runs and analyses.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence

_Scale = Callable[[float], float]
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def text(value: object) -> str:
    """Anything as text: markup is escaped, what cannot be seen is shown as an escape."""
    plain = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape(_CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", plain), quote=True)


def section(title: str, *parts: str, note: str = "") -> str:
    """A headed part of the page."""
    under = f"<p class=note>{text(note)}</p>" if note else ""
    anchor = re.sub("[^a-z]+", "-", title.lower()).strip("-")
    return f'<section id="{anchor}"><h2>{text(title)}</h2>{under}{"".join(parts)}</section>'


def paragraph(words: str, kind: str = "") -> str:
    """A line of text."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(words)}</p>"


def tiles(values: Iterable[tuple[str, str, str]]) -> str:
    """Figures to see first: (name, value, what it means)."""
    made = (
        f"<div class=tile><div class=name>{text(name)}</div><div class=value>{text(value)}</div>"
        f"<div class=hint>{text(hint)}</div></div>"
        for name, value, hint in values
    )
    return f"<div class=tiles>{''.join(made)}</div>"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, total: bool = False
) -> str:
    """A table of ready cells; the first `words` columns are text, the others figures.

    Cells are HTML: make them with `text` or `bar`. total: the last row is a sum.
    """
    heads = "".join(
        f"<th{'' if column < words else ' class=n'}>{text(head)}</th>"
        for column, head in enumerate(headers)
    )
    made = []
    listed = list(rows)
    for number, row in enumerate(listed):
        cells = "".join(
            f"<td{'' if column < words else ' class=n'}>{cell}</td>"
            for column, cell in enumerate(row)
        )
        last = total and number == len(listed) - 1
        made.append(f"<tr{' class=total' if last else ''}>{cells}</tr>")
    body = "".join(made)
    return (
        f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
        "</table></div>"
    )


def bar(share: float, colour: str, label: str = "", *, hatched: bool = False) -> str:
    """A bar of a share of the cell's width, from 0 to 1, with a text after it."""
    width = max(0.0, min(1.0, share)) * 100
    kind = "bar hatched" if hatched else "bar"
    after = f"<span class=after>{text(label)}</span>" if label else ""
    return (
        f'<div class=track><span class="{kind}" style="width:{width:.2f}%;'
        f'--fill:{colour}"></span></div>{after}'
    )


def badge(word: str, kind: str) -> str:
    """A small coloured word."""
    return f'<span class="badge {kind}">{text(word)}</span>'


def code(words: object) -> str:
    """A name from a program."""
    return f"<code>{text(words)}</code>"


def place(source: str) -> str:
    """A line of code under what happened there: the end of its path, the whole of it on hover."""
    if not source:
        return ""
    short = "/".join(source.replace("\\", "/").split("/")[-2:])
    return f'<span class=place title="{text(source)}">{code(short)}</span>'


def area(
    layers: Sequence[tuple[str, str, Sequence[float]]],
    times: Sequence[float],
    *,
    unit: str,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Stacked areas over time as SVG: (name, colour, values); `marks` are moments with a name."""
    if len(times) < 2 or times[-1] <= times[0]:
        return ""
    wide, high, left, top, low = 960, 250, 64, 18, 24
    sums = [sum(values[i] for _, _, values in layers) for i in range(len(times))]
    most = max(*sums, 1e-9) * 1.04

    def across(moment: float) -> float:
        return left + (moment - times[0]) / (times[-1] - times[0]) * (wide - left - 8)

    def down(value: float) -> float:
        return top + (1 - value / most) * (high - top - low)

    parts = [_grid(most, unit, left, wide, down)]
    base = [0.0] * len(times)
    for name, colour, values in layers:
        upper = [b + v for b, v in zip(base, values, strict=True)]
        forth = " ".join(_step(times, upper, across, down))
        back = " ".join(reversed(_step(times, base, across, down)))
        parts.append(
            f'<polygon points="{forth} {back}" fill="{colour}">'
            f"<title>{text(name)}</title></polygon>"
        )
        base = upper
    for moment, name in marks:
        x = across(moment)
        parts.append(
            f'<line class=mark x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{high - low}"/>'
            f'<text class=axis x="{x + 4:.1f}" y="{top - 6}">{text(name)}</text>'
        )
    span = f"{times[-1] - times[0]:.3g} s"
    parts.append(
        f'<text class=axis x="{left}" y="{high - 6}">0</text>'
        f'<text class=axis x="{wide - 8}" y="{high - 6}" text-anchor="end">{span}</text>'
    )
    keys = "".join(
        f'<span class=key><i style="background:{colour}"></i>{text(name)}</span>'
        for name, colour, values in layers
        if any(values)
    )
    picture = f'<svg viewBox="0 0 {wide} {high}" role="img">{"".join(parts)}</svg>'
    return f"<figure>{picture}<figcaption>{keys}</figcaption></figure>"


def _step(
    times: Sequence[float], values: Sequence[float], across: _Scale, down: _Scale
) -> list[str]:
    """Corners of a line that jumps at each sample and stays until the next."""
    corners = []
    for number, (moment, value) in enumerate(zip(times, values, strict=True)):
        corners.append(f"{across(moment):.1f},{down(value):.1f}")
        if number + 1 < len(times):
            corners.append(f"{across(times[number + 1]):.1f},{down(value):.1f}")
    return corners


def _grid(most: float, unit: str, left: int, wide: int, down: _Scale) -> str:
    raw = most / 4
    power = 10.0 ** len(str(int(raw))) / 10 if raw >= 1 else 0.1
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.8)
    lines, value = [], 0.0
    while value <= most:
        y = down(value)
        lines.append(
            f'<line class=grid x1="{left}" x2="{wide - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class=axis x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{value:g} {text(unit)}</text>"
        )
        value += step
    return "".join(lines)
