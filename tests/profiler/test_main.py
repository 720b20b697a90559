"""The commands over a run: text for people, JSON for programs, exit codes for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from profiler.__main__ import app
from profiler.events import MemorySample, Step
from profiler.exports import FORMATS, run_and_formats
from profiler.query import open_run
from profiler.report import report
from tests.profiler.analyses.runs import float32, run_of
from tests.profiler.exports.samples import sample


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_report_prints_what_json_holds(tmp_path: Path) -> None:
    sample(tmp_path / "run").close()
    text = call("report", tmp_path / "run")
    assert text.exit_code == 0, text.output
    assert "What autograd saved" in text.output and "unexplained" in text.output
    assert "d2h (simulated, peer)" in text.output
    found = json.loads(call("report", tmp_path / "run", "--json").stdout)
    assert set(found) == {"run", "note", "ledger", "duplicates", "traffic"}
    assert found["ledger"]["total"]["logical_bytes"] == 96
    assert found == json.loads(json.dumps(report(open_run(tmp_path / "run")).to_json()))


def test_report_tells_ranks_apart_and_prints_limits(tmp_path: Path) -> None:
    saves = [float32(1, 1, [2], op="CompiledFunctionBackward", rank=rank) for rank in (0, 1)]
    memory = [MemorySample(rank=rank, allocated_bytes=8 + rank) for rank in (0, 1)]
    run_of(tmp_path / "run", saves, memory).close()
    for words in (
        ["report", tmp_path / "run"],
        ["html", tmp_path / "run", "--out", tmp_path / "h"],
    ):
        assert call(*words).exit_code == 0
    for shown in (call("report", tmp_path / "run").output, (tmp_path / "h").read_text()):
        assert "(rank 0, idle, cpu): 8 B =" in shown and "(rank 1, idle, cpu): 9 B =" in shown
        assert "2 saves, 16 bytes, are of compiled code" in " ".join(shown.split())


def test_report_folds_what_is_beyond_the_top(tmp_path: Path) -> None:
    run_of(tmp_path / "run", [float32(i, i, [i + 1], module=f"m{i}") for i in range(9)]).close()
    shown = call("report", tmp_path / "run", "--top", "3").output
    assert "(6 others)" in shown and "m8" in shown and "m1" not in shown


def test_report_says_what_is_missing(tmp_path: Path) -> None:
    run_of(tmp_path / "run").close()
    assert "Nothing was saved" in call("report", tmp_path / "run").output


def test_a_folder_of_runs_means_its_newest(tmp_path: Path) -> None:
    run_of(tmp_path / "a", [float32(1, 1, [1])]).close()
    run_of(tmp_path / "b", [float32(1, 1, [2])]).close()
    found = json.loads(call("report", tmp_path, "--json").stdout)
    assert found["run"] == str(tmp_path / "b")


def test_export_writes_and_names_the_file(tmp_path: Path) -> None:
    sample(tmp_path / "run").close()
    done = call("export", "dot", tmp_path / "run", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert Path(found["file"]).stat().st_size == found["bytes"] > 0
    again = call("export", "dot", tmp_path / "run")
    assert again.exit_code == 2 and "--force" in again.stderr
    assert call("export", "dot", tmp_path / "run", "--force").exit_code == 0
    assert call("export", tmp_path / "run", "dot", "--force").exit_code == 0


def test_export_without_a_format_writes_all(tmp_path: Path) -> None:
    sample(tmp_path / "dot").close()
    formats = json.loads(call("formats", "--json").stdout)
    done = call("export", tmp_path / "dot", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["files"]
    assert [row["format"] for row in rows] == list(formats)
    assert all(Path(row["file"]).stat().st_size == row["bytes"] > 0 for row in rows)
    for words in (["dot"], ["a", "b", "dot"], [tmp_path / "dot", "--out", tmp_path / "file"]):
        assert call("export", *words).exit_code == 2


def test_a_run_may_be_called_like_a_format() -> None:
    assert run_and_formats(["dot", "dot"], None) == ("dot", ["dot"])
    assert run_and_formats(["dot"], None) == ("dot", list(FORMATS))
    assert run_and_formats(["a", "folded", "dot"], None) == ("a", ["folded", "dot"])


def test_runs_are_listed_with_their_notes(tmp_path: Path) -> None:
    run_of(tmp_path / "good").close()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_text("{")
    rows = json.loads(call("runs", tmp_path, "--json").stdout)["runs"]
    assert [Path(row["path"]).name for row in rows] == ["good", "bad"]
    assert rows[0]["note"] is None and "cannot be read" in rows[1]["note"]


@pytest.mark.parametrize(
    "arguments",
    [["report"], ["report", "nowhere"], ["export", "svg", "."], ["report", ".", "--top", "0"]],
)
def test_wrong_use_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    done = call(*arguments)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr


def test_lint_is_an_exit_code_when_asked(tmp_path: Path) -> None:
    wrong = float32(1, 1, [2], op="Mul", module="[b]m", unpack_version=3, unpacked_count=1)
    run_of(tmp_path / "run", [wrong]).close()
    shown = call("lint", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    assert "saved-mutated" in shown.output and "[b]m: Mul" in shown.output
    assert "1 error" in shown.output and "--level values" in shown.output
    assert call("lint", tmp_path / "run", "--fail-on", "error").exit_code == 1
    assert call("lint", tmp_path / "run", "--fail-on", "note").exit_code == 1
    assert call("lint", tmp_path / "run", "--fail-on", "wide-twin").exit_code == 0
    found = json.loads(call("lint", tmp_path / "run", "--json").stdout)
    assert found["findings"][0]["rule"] == "saved-mutated"
    refused = call("lint", tmp_path / "run", "--fail-on", "worse")
    assert refused.exit_code == 2 and "must be one of note" in refused.stderr


def test_lint_of_a_clean_run_says_so(tmp_path: Path) -> None:
    run_of(tmp_path / "run", [float32(1, 1, [2], unpacked_count=1)]).close()
    shown = call("lint", tmp_path / "run", "--fail-on", "note")
    assert shown.exit_code == 0 and "No findings" in shown.output


def test_whatif_predicts_beside_what_was_measured(tmp_path: Path) -> None:
    saves = [float32(i, 1, [500], op="Mul", module="m", unpacked_count=1) for i in (1, 2)]
    run_of(tmp_path / "a", saves, [Step(step=0, peak_bytes=2000, end_ns=9)]).close()
    done = [float32(1, 1, [500], action="copied", host_bytes=2000), float32(2, 2, [2])]
    run_of(tmp_path / "b", done).close()
    shown = call("whatif", tmp_path / "a", "--offload", "m", "--beside", tmp_path / "b")
    assert shown.exit_code == 0, shown.output
    assert "predicted: offload m" in shown.output and "(+0.0%)" in shown.output
    (one,) = json.loads(call("whatif", tmp_path / "a", "--dedupe", "--json").stdout)["predictions"]
    assert (one["predicted_host_bytes"], one["scenario"]) == (2000, "M")
    every = ["whatif", tmp_path / "a", "--offload", "*", "--copy-every-save", "--json"]
    assert json.loads(call(*every).stdout)["predictions"][0]["predicted_host_bytes"] == 4000
    refused = call("whatif", tmp_path / "a", "--beside", tmp_path / "b")
    assert refused.exit_code == 2 and "no setting to compare" in refused.stderr


def test_diff_ranks_what_changed(tmp_path: Path) -> None:
    run_of(tmp_path / "a", [float32(1, 1, [10], op="[i]Mul", module="m")]).close()
    run_of(tmp_path / "b", [float32(1, 1, [500], op="[i]Mul", module="m")]).close()
    shown = call("diff", tmp_path / "a", tmp_path / "b")
    assert shown.exit_code == 0, shown.output
    assert "+1.9 KiB" in shown.output and "[i]Mul" in shown.output
    assert "shape [10] -> [500]" in shown.output
    found = json.loads(call("diff", tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert found["changes"][0]["device_bytes"] == 1960
    same = call("diff", tmp_path / "a", tmp_path / "a")
    assert "saves the same in both" in same.output
    assert call("diff", tmp_path / "a").exit_code == 2


def test_html_writes_one_page(tmp_path: Path) -> None:
    sample(tmp_path / "run").close()
    done = call("html", tmp_path / "run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["file"] == str(tmp_path / "run/report.html") and found["bytes"] > 5000
    assert call("html", tmp_path / "run").exit_code == 2
    assert call("html", tmp_path / "run", "--force").exit_code == 0
    assert call("report", tmp_path / "run").exit_code == 0  # the page does no harm to the run


def test_report_folds_equal_layers(tmp_path: Path) -> None:
    rows = [float32(i, i, [300], module=f"layers.{i}.up") for i in range(5)]
    run_of(tmp_path / "run", rows).close()
    shown = call("report", tmp_path / "run").output
    assert "layers.0-4.up (x5)" in shown and "layers.3.up" not in shown


def test_import_makes_a_run_of_a_snapshot(tmp_path: Path) -> None:
    sample(tmp_path / "run").close()
    assert call("export", "snapshot", tmp_path / "run", "--out", tmp_path / "s").exit_code == 0
    done = call("import", tmp_path / "s", "--out", tmp_path / "again", "--json")
    assert json.loads(done.stdout) == {"run": str(tmp_path / "again")}
    assert call("report", tmp_path / "again").exit_code == 0
    assert call("import", tmp_path / "s", "--out", tmp_path / "again").exit_code == 2
    assert call("import", tmp_path / "none", "--out", tmp_path / "b").exit_code == 2
