"""The sections of the page: one function per analysis, results in, HTML out.

Contract: whatever a run named is text; predicted and measured figures carry those words; equal
layers are folded and lines add up to their totals.
Boundary: renders results; computes shares of bars and nothing else.
"""

from __future__ import annotations

from typing import Any

from profiler.analyses import Duplicates, Ledger, Lint, Traffic
from profiler.analyses.diff import Diff
from profiler.analyses.duplicates import Group
from profiler.analyses.fold import fold_names
from profiler.analyses.lint import Finding
from profiler.analyses.timeline import CATEGORIES, Timeline
from profiler.analyses.traffic import Flow
from profiler.analyses.whatif import Measured, Prediction, WhatIf
from profiler.events import ROOT
from profiler.report import balance_lines, fold_ledger
from profiler.reports.diff_text import TOTALS, cells, total_cells
from profiler.reports.html_elements import (
    area,
    badge,
    bar,
    code,
    paragraph,
    place,
    section,
    table,
    text,
)
from profiler.reports.lint_text import levels
from profiler.reports.theme import CATEGORY_COLOURS, WINE
from profiler.reports.units import MIB, NOTHING, format_bytes
from profiler.reports.whatif_text import FIGURES, HEADERS, deviation

TOP = 25
PLACES = 6  # named per rule of lint
_LABELS = {
    "param": "parameters", "optimizer": "optimizer", "grad": "gradients",
    "saved": "saved for backward", "temp": "temporary", "unexplained": "unexplained",
    "host": "on the host", "peer": "at peers",
}  # fmt: skip
_ALWAYS_SHOWN = ("param", "saved")


def memory_section(found: Timeline) -> str:
    """Bytes by category over time, with the end of each forward."""
    moments = found.moments
    if len(moments) < 2:
        return section("Memory", paragraph("No memory samples were recorded.", "note"))
    start = moments[0].time_ns
    times = [(moment.time_ns - start) / 1e9 for moment in moments]
    layers = [
        (
            _LABELS[name],
            CATEGORY_COLOURS.get(name, WINE),
            [max(0, m.bytes[place]) / MIB for m in moments],
        )
        for place, name in enumerate(CATEGORIES)
        if name in _ALWAYS_SHOWN or any(m.bytes[place] > 0 for m in moments)
    ]
    ends = [(band.start_ns - start) / 1e9 for band in found.bands if band.part == "backward"]
    marks = [(end, "backward") for end in ends if 0 <= end <= times[-1]]
    picture = area(layers, times, unit="MiB", marks=marks[:3])
    return section("Memory", picture, note="Tracked storages by what they are for, over the step.")


def ledger_section(found: Ledger) -> str:
    """Per module: what was saved, and what of it is new memory."""
    folded = fold_ledger(found.modules)
    most = max((entry.unique_bytes for _, entry in folded), default=0) or 1
    rows = [
        (code(name), bar(e.unique_bytes / most, "var(--blue)"), *_sizes(e))
        for name, e in folded[:TOP]
    ]
    if rest := folded[TOP:]:
        sums = [sum(getattr(e, n) for _, e in rest) for n in _LEDGER]
        rows.append((text(f"({len(rest)} others)"), "", *(text(_figure(*p)) for p in zip(_LEDGER, sums, strict=True))))  # fmt: skip  # noqa: E501
    rows.append(("total", "", *_sizes(found.total)))
    headers = ("module", "", "saves", "logical", "parameters", "aliased", "unique", "on host")
    balances = [
        paragraph(line[0].upper() + line[1:], "note") for line in balance_lines(found.balances)
    ]
    balances += [paragraph(f"Limit: {limit}.", "warning-line") for limit in found.limits]
    note = (
        "Logical: every save counted. Unique: each storage once, where it was saved first; "
        "parameters are in memory anyway and are not in it."
    )
    return section("Ledger", table(headers, rows, words=2, total=True), *balances, note=note)


_LEDGER = ("saves", "logical_bytes", "param_bytes", "aliased_bytes", "unique_bytes", "host_bytes")


def _sizes(entry: Any) -> list[str]:
    return [text(_figure(name, getattr(entry, name))) for name in _LEDGER]


def _figure(name: str, value: int) -> str:
    return f"{value}" if name == "saves" else format_bytes(value)


def _size(count: int | None) -> str:
    if count is None:
        return NOTHING
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)


def duplicates_section(found: Duplicates) -> str:
    """Storages that were saved more than once."""
    if not found.groups:
        return section("Duplicates", paragraph("No storage was saved twice."))
    alike: dict[tuple[object, ...], list[Group]] = {}
    for group in found.groups:
        first, kinds = group.members[0], sorted({m.relation for m in group.members[1:]})
        sizes = (group.storage_bytes, group.repeated_bytes, group.wasted_bytes)
        key = (first.op, first.source, ", ".join(kinds), len(group.members), *sizes)
        alike.setdefault(key, []).append(group)
    folded = sorted(alike.values(), key=lambda groups: -_sum(groups, "repeated_bytes"))
    most = _sum(folded[0], "repeated_bytes") or 1
    rows = [_group_cells(groups, most) for groups in folded[:TOP]]
    headers = ("first saved by", "again as", "", "times", "storage", "repeated", "wasted")
    more = sum(map(len, folded[TOP:]))
    tail = paragraph(f"and {more} more storages", "note") if more else ""
    note = (
        f"Copying every save would send {format_bytes(found.repeated_bytes)} again; "
        f"{format_bytes(found.wasted_bytes)} of host memory was in fact filled again."
    )
    return section("Duplicates", table(headers, rows, words=3), tail, note=note)


def _group_cells(groups: list[Group], most: int) -> tuple[str, ...]:
    """One line for equal duplicates in equal layers."""
    first = groups[0].members[0]
    names = fold_names(group.members[0].module for group in groups)
    shown = ", ".join(name or ROOT for name in names[:4])
    kinds = sorted({member.relation for member in groups[0].members[1:]})
    repeated = _sum(groups, "repeated_bytes")
    return (
        code(f"{shown}: {first.op}") + place(first.source), text(", ".join(kinds)),
        bar(repeated / most, "var(--orange)"), text(len(groups[0].members)),
        text(format_bytes(_sum(groups, "storage_bytes"))), text(format_bytes(repeated)),
        text(format_bytes(_sum(groups, "wasted_bytes"))),
    )  # fmt: skip


def _sum(groups: list[Group], name: str) -> int:
    return sum(int(getattr(group, name)) for group in groups)


def traffic_section(found: Traffic) -> str:
    """What crossed, by direction, and the modules behind most of it."""
    if not found.totals:
        return section("Traffic", paragraph("Nothing crossed between device and host."))
    rows = []
    for flow in found.totals:
        labels = [name for name in ("simulated", "peer") if getattr(flow, name)]
        rate = flow.bytes_per_second
        speed = NOTHING if rate is None else f"{format_bytes(round(rate))}/s"
        rows.append((text(flow.direction), text(", ".join(labels) or "measured"),
                     text(flow.copies), text(format_bytes(flow.bytes)), text(speed)))  # fmt: skip
    whole = table(("direction", "kind", "copies", "bytes", "rate"), rows, words=2)
    alike: dict[tuple[object, ...], list[Flow]] = {}
    for flow in found.modules:
        key = (flow.direction, flow.action, flow.peer, flow.copies, flow.bytes)
        alike.setdefault(key, []).append(flow)
    flows = sorted(alike.values(), key=lambda one: -one[0].bytes * len(one))
    most = max((one[0].bytes * len(one) for one in flows), default=0) or 1
    inner = [_flow_cells(one, most) for one in flows[:TOP]]
    by_module = table(("module", "what", "", "copies", "bytes"), inner, words=3)
    note = f"Sent to the host and never asked for: {format_bytes(found.unused_bytes)}."
    return section("Traffic", whole, by_module, note=note)


def _flow_cells(flows: list[Flow], most: int) -> tuple[str, ...]:
    """One line for equal traffic of equal layers."""
    first, size = flows[0], flows[0].bytes * len(flows)
    names = fold_names(flow.module for flow in flows)
    shown = ", ".join(name or ROOT for name in names[:4])
    return (
        code(shown), text(f"{first.direction} {first.action}{' (peer)' if first.peer else ''}"),
        bar(size / most, "var(--green)"), text(first.copies * len(flows)),
        text(format_bytes(size)),
    )  # fmt: skip


def whatif_section(found: WhatIf | str) -> str:
    """Predictions beside what was measured; a text where nothing could be predicted."""
    if isinstance(found, str):
        return section("What if", paragraph(found, "note"))
    tops = [found.base.measured_peak_bytes or 0]
    tops += [one.predicted_peak_bytes for one in found.predictions]
    most = max(tops) or 1
    base = bar((found.base.measured_peak_bytes or 0) / most, "var(--blue)")
    rows = [(text("measured, as recorded"), base, *_measured(found.base))]
    for one in found.predictions:
        mark = " (at most)" if one.upper_bound else ""
        shape = bar(one.predicted_peak_bytes / most, "var(--blue)", hatched=True)
        sizes = [text(format_bytes(getattr(one, f"predicted_{name}_bytes"))) for name in FIGURES]
        rows.append((text(f"predicted{mark}: {one.scenario}"), shape, *sizes))
        if one.beside is not None:
            label = text(f"measured: step {one.beside.step} {one.beside.name}")
            rows.append((label, "", *_measured(one.beside, one)))
    notes = dict.fromkeys(note for one in found.predictions for note in one.assumes)
    assumed = paragraph("Predictions assume that " + "; that ".join(notes) + ".", "note")
    note = "Nothing was run for these: they follow from this one trace. Hatched: predicted peak."
    body = table(("", "", *HEADERS), rows, words=2)
    return section("What if", body, assumed if notes else "", note=note)


def _measured(row: Measured, against: Prediction | None = None) -> list[str]:
    made = []
    for name in FIGURES:
        off = deviation(against, name) if against is not None else None
        size = _size(getattr(row, f"measured_{name}_bytes"))
        after = "" if off is None else f"<span class=place>predicted {off:+.1%}</span>"
        made.append(text(size) + after)
    return made


def lint_section(found: Lint) -> str:
    """The findings, worst first."""
    if not found.findings:
        return section("Lint", f"<p>{badge('clean', 'good')}{text('No findings.')}</p>",
                       paragraph(levels(found), "note"))  # fmt: skip
    rules: dict[str, list[Finding]] = {}
    for finding in found.findings:
        rules.setdefault(finding.rule, []).append(finding)
    cards = [_rule(findings) for findings in rules.values()]
    return section("Lint", *cards, paragraph(levels(found), "note"))


def _rule(findings: list[Finding]) -> str:
    """One rule and the places where it applies."""
    first = findings[0]
    rows = []
    for finding in findings[:PLACES]:
        names = [name or ROOT for name in finding.modules[:6]]
        rows.append((
            code(f"{', '.join(names)}: {finding.op}") + place(finding.source),
            text(finding.count), text(format_bytes(finding.bytes)),
        ))  # fmt: skip
    if rest := findings[PLACES:]:
        size = format_bytes(sum(finding.bytes for finding in rest))
        count = sum(finding.count for finding in rest)
        rows.append((text(f"(others: {len(rest)})"), text(count), text(size)))
    return (
        f"<div class=finding><p>{badge(first.severity, first.severity)}"
        f"<b>{text(first.title)}</b> <span class=note>{text(first.rule)}</span></p>"
        f"<p>{text('Remedy: ' + first.remedy)}</p>"
        f"{table(('where', 'times', 'bytes'), rows)}</div>"
    )


def diff_section(found: Diff) -> str:
    """This run (a) and another (b)."""
    totals = [
        (text(label), *(text(cell) for cell in total_cells(found, name))) for label, name in TOTALS
    ]
    parts = [
        paragraph(f"a: {found.a.run}, step {found.a.step}; b: {found.b.run}, step {found.b.step}"),
        table(("", "a", "b", "b - a"), totals),
    ]
    if not found.changes:
        return section("Diff", *parts, paragraph("Every module saves the same in both."))
    rows = []
    for change in found.changes[:TOP]:
        where, phase, op, why, device, host = cells(change)
        rows.append((code(where), text(phase), code(op), text(why), text(device), text(host)))
    headers = ("module", "phase", "operation", "why", "device", "host")
    parts.append(table(headers, rows, words=4))
    if (more := len(found.changes) - TOP) > 0:
        parts.append(paragraph(f"and {more} smaller changes", "note"))
    same = f"{found.equal_modules} modules save the same in both. Figures are b - a."
    return section("Diff", *parts, note=same)
