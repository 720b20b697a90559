"""Findings of lint as text: worst first, each with its place, its cost and its remedy.

Contract: a `Lint` in, a rich renderable out; names of modules and files are printed as they are.
Boundary: formats only.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from profiler.analyses.lint import Finding, Lint
from profiler.events import ROOT
from profiler.reports.units import format_bytes

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_MODULES = 4  # named per place
_PLACES = 8  # per rule


def lint_text(found: Lint) -> RenderableType:
    """Return what rich prints."""
    if not found.findings:
        return Text("No findings." + " " + levels(found))
    numbers = {name: sum(f.severity == name for f in found.findings) for name in _STYLES}
    counts = [f"{n} {name}{'s' * (n > 1)}" for name, n in numbers.items() if n]
    rules: dict[str, list[Finding]] = {}
    for finding in found.findings:
        rules.setdefault(finding.rule, []).append(finding)
    lines = [_rule(findings) for findings in rules.values()]
    return Group(*lines, Text(", ".join(counts) + "." + " " + levels(found)))


def levels(found: Lint) -> str:
    """What the level of the run left out."""
    if found.level == "values":
        return ""
    if found.level == "summary":
        return "The level was summary, which records no saves: trace at level full."
    return "Contents were not recorded: some rules need --level values."


def _rule(findings: list[Finding]) -> Text:
    first = findings[0]
    text = Text()
    text.append(first.severity, style=_STYLES[first.severity])
    text.append(f" {first.rule}: {first.title}\n")
    for finding in findings[:_PLACES]:
        text.append(_place(finding))
    if rest := findings[_PLACES:]:
        size = format_bytes(sum(finding.bytes for finding in rest))
        text.append(f"  and at {len(rest)} other places, {size}\n")
    text.append(f"  remedy: {first.remedy}\n", style="dim")
    return text


def _place(finding: Finding) -> str:
    where = ", ".join(name or ROOT for name in finding.modules[:_MODULES])
    if (more := len(finding.modules) - _MODULES) > 0:
        where += f" and {more} more"
    times = "once" if finding.count == 1 else f"{finding.count} times"
    steps = f"step {finding.first_step}"
    if finding.last_step != finding.first_step:
        steps = f"steps {finding.first_step} to {finding.last_step}"
    source = f"\n    at {finding.source}" if finding.source else ""
    what = f"{where}{': ' if finding.op else ''}{finding.op}"
    return f"  {format_bytes(finding.bytes)}, {times}, {steps}: {what}{source}\n"
