"""Every planted bug is found by its rule and nothing else is; clean programs have no finding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.analyses.lint import check_fail_on, lint
from profiler.analyses.lint_rules import RULES
from profiler.events import Step
from profiler.program import Program, trace_program
from profiler.query import open_run
from tests.profiler.analyses.runs import float32, run_of

CASES = sorted((Path(__file__).parent.parent / "lint_cases").glob("*.py"))


def heading(script: Path, name: str, default: str = "") -> str:
    lines = script.read_text().splitlines()
    return next((s.split(": ", 1)[1] for s in lines if s.startswith(f"# {name}: ")), default)


def expected(script: Path) -> set[str]:
    return set(heading(script, "expects").split(", ")) - {"nothing"}


def test_every_rule_has_a_planted_bug() -> None:
    assert set().union(*map(expected, CASES)) == set(RULES)


@pytest.mark.parametrize("script", CASES, ids=lambda script: script.stem)
def test_planted_bugs_are_found_and_nothing_else(script: Path, tmp_path: Path) -> None:
    level = heading(script, "level", "full")
    run = tmp_path / "run"
    if "transformers" in script.read_text():  # on its own: it brings warnings and threads
        words = ["--level", level, "--out", str(run), "--", str(script)]
        done = subprocess.run(
            [sys.executable, "-m", "profiler.trace", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    else:
        program = Program.parse([str(script)])
        code = trace_program(program, run, level=level, steps=(None, None), force=False)
        assert code == 0
    with open_run(run) as opened:
        found = lint(opened)
        assert opened.sql("SELECT count(*) AS n FROM saves").column("n")[0].as_py() > 0
    assert {finding.rule for finding in found.findings} == expected(script), found.findings
    assert found.level == level
    for finding in found.findings:
        assert script.name in finding.source and finding.count > 0 and finding.bytes > 0


def test_findings_are_grouped_by_place_and_layers_folded(tmp_path: Path) -> None:
    saves = [
        float32(i, i, [4], module=f"layers.{i}.up", op="Mm", is_param=True, action="copied",
                host_bytes=16, unpacked_count=1, step=i % 2)
        for i in range(4)
    ]  # fmt: skip
    found = lint(run_of(tmp_path / "run", saves))
    (finding,) = found.findings
    assert (finding.rule, finding.count, finding.bytes) == ("parameter-offloaded", 4, 64)
    assert finding.modules == ["layers.0-3.up (x4)"]
    assert (finding.first_step, finding.last_step, finding.save_id) == (0, 1, 0)
    assert json.loads(json.dumps(found.to_json()))["findings"][0]["op"] == "Mm"
    (one,) = lint(run_of(tmp_path / "again", saves), 1).findings
    assert one.count == 2 and one.modules == ["layers.1,3.up (x2)"]


def test_worst_first_and_fail_on_picks(tmp_path: Path) -> None:
    saves = [
        float32(1, 1, [1000], action="copied", host_bytes=4000),
        float32(2, 2, [2], unpack_version=3, unpacked_count=1),
    ]
    steps = [Step(step=0, forward_end_ns=1, end_ns=2)]
    found = lint(run_of(tmp_path / "run", saves, steps))
    assert [f.rule for f in found.findings] == ["saved-mutated", "never-unpacked"]
    assert [f.rule for f in found.matching(["error"])] == ["saved-mutated"]
    assert len(found.matching(["warning"])) == len(found.matching(["note"])) == 2
    assert [f.rule for f in found.matching(["never-unpacked"])] == ["never-unpacked"]
    assert found.matching([]) == []
    with pytest.raises(ValueError, match="fail-on: got strange; must be one of note, warning"):
        check_fail_on(["strange", "error"])


def test_a_step_that_did_not_end_is_not_blamed(tmp_path: Path) -> None:
    saves = [float32(1, 1, [4], action="copied", host_bytes=16)]
    running = [Step(step=0, forward_end_ns=1)]
    assert lint(run_of(tmp_path / "run", saves, running)).findings == []


def test_slices_side_by_side_are_no_duplicate_copies(tmp_path: Path) -> None:
    halves = [
        float32(i + 1, 7, [8, 3], stride=[6, 1], storage_offset=3 * i, storage_elements=48,
                action="copied", host_bytes=96, unpacked_count=1)
        for i in (0, 1)
    ]  # fmt: skip
    inside = [
        float32(3, 8, [10], action="copied", host_bytes=40, unpacked_count=1),
        float32(4, 8, [3], storage_offset=2, action="copied", host_bytes=12, unpacked_count=1),
    ]
    assert lint(run_of(tmp_path / "halves", halves)).findings == []
    (finding,) = lint(run_of(tmp_path / "inside", inside)).findings
    assert (finding.rule, finding.bytes, finding.save_id) == ("duplicate-host-copy", 12, 4)
