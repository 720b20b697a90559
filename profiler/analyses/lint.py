"""Lint: what a run shows to be wrong or wasteful, as verdicts that a script can act on.

Contract: every finding names its rule, how bad it is, how often it occurs, the bytes it costs, the
modules (equal layers folded), the operation and the source line, and a remedy. What a rule cannot
decide from the level of the run it does not report. An empty list means that no rule applied.
Boundary: groups what `lint_rules` finds; which findings end a program is the command line's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of, source_line
from profiler.analyses.fold import fold_names
from profiler.analyses.lint_rules import RULES, SEVERITIES, Rule


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule that applies at one place."""

    rule: str
    severity: str  # note | warning | error
    title: str
    remedy: str
    op: str
    source: str  # "file:line:function", innermost outside torch; "" where no stack is known
    modules: list[str]  # equal layers folded
    count: int  # saves
    bytes: int  # what it costs, or what is affected
    first_step: int
    last_step: int
    save_id: int  # one example, in `first_step`


@dataclass(frozen=True, kw_only=True)
class Lint(Result):
    """The findings of a run, worst first, then largest first."""

    findings: list[Finding]
    level: str  # what the run recorded: some rules need "values"

    def matching(self, fail_on: Sequence[str]) -> list[Finding]:
        """Those of a named rule, or at least of a named severity.

        Raises:
            ValueError: neither a rule nor a severity.
        """
        wanted = check_fail_on(fail_on)
        return [
            found
            for found in self.findings
            if found.rule in wanted
            or any(s in wanted and _rank(found.severity) >= _rank(s) for s in SEVERITIES)
        ]


def lint(run: Rows, step: int | None = None) -> Lint:
    """Return the findings of one step, or of all; ValueError for an unknown step."""
    if step is not None:
        choose_step(run, step)
    findings = [found for rule in RULES.values() for found in _findings(run, rule, step)]
    findings.sort(key=lambda f: (-_rank(f.severity), -f.bytes, f.rule, f.source, f.op))
    level = getattr(run, "info", {}).get("level", "")
    return Lint(findings=findings, level=str(level))


def check_fail_on(fail_on: Sequence[str]) -> set[str]:
    """The names as a set; ValueError names what there is."""
    known = (*SEVERITIES, *RULES)
    if unknown := [name for name in fail_on if name not in known]:
        raise ValueError(f"fail-on: got {', '.join(unknown)}; must be one of {', '.join(known)}")
    return set(fail_on)


def _findings(run: Rows, rule: Rule, step: int | None) -> list[Finding]:
    rows = rows_of(run, _GROUPED.format(hits=rule.hits), {"step": step})
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        source = source_line(row["frames"] or [])
        places.setdefault((row["op"], source), []).append(row)
    return [_finding(rule, op, source, rows) for (op, source), rows in places.items()]


def _finding(rule: Rule, op: str, source: str, rows: list[dict[str, Any]]) -> Finding:
    first = min(rows, key=lambda row: (row["first_step"], row["save_id"]))
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        title=rule.title,
        remedy=rule.remedy,
        op=op,
        source=source,
        modules=fold_names(row["module"] for row in rows),
        count=sum(row["count"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
        first_step=first["first_step"],
        last_step=max(row["last_step"] for row in rows),
        save_id=first["save_id"],
    )


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)


# `hits` gives rank, step, save_id and bytes; a save counts once per rule.
_GROUPED = """
WITH chosen AS (
    SELECT *, bool_or(is_param) OVER (PARTITION BY rank, storage_id) AS of_param
    FROM saves WHERE $step IS NULL OR step = $step
), hits AS ({hits})
SELECT v.module, v.op, any_value(k.frames) AS frames, count(*) AS count, sum(h.bytes) AS bytes,
    min(h.step) AS first_step, max(h.step) AS last_step, arg_min(v.save_id, v.save_id) AS save_id
FROM hits h
JOIN saves v ON v.rank = h.rank AND v.step = h.step AND v.save_id = h.save_id
LEFT JOIN stacks k ON k.rank = v.rank AND k.stack_id = v.stack_id
GROUP BY v.rank, v.module, v.op, v.stack_id ORDER BY save_id
"""
