"""``python -m edkm.compare`` as a user runs it: refusals, an interruption, every method."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A shell that starts the tests in the background has its children ignore interruptions.
HEED_INTERRUPTS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("edkm.compare", run_name="__main__", alter_sys=True)
"""
METHODS = (
    "dense,rtn,smoothquant,gptq,awq,llm-qat,kmeans,dkm,edkm,edkm-allocated,edkm-chosen,tuned+gptq,"
    "gptq@4"
)


def command(model: Path, text: Path, out: Path, *more: str) -> list[str]:
    files = ["--text-train", str(text), "--text-heldout", str(text), "--out", str(out)]
    return [sys.executable, "-m", "edkm.compare", "--model", str(model), *files, *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "magic"], "error: methods is 'magic'; it must be one of"),
        (["--bits", "three"], "error: bits is 'three'; give whole numbers by comma"),
        (["--preset", "best"], "error: preset is 'best'; it must be one of"),
        (["--out", __file__], f"error: out is {__file__}, but {__file__} is a file; give another"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, more: list[str], message: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("once upon a time")
    done = run(command(tmp_path, text, tmp_path / "out", *more))
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("once upon a time")
    arguments = command(tmp_path, text, out, "--methods", "rtn", "--bits", "3")
    with subprocess.Popen(
        [sys.executable, "-c", HEED_INTERRUPTS, *arguments[3:]],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (out / "work" / "imports.log").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_method_fills_its_row(realdata: Path, tmp_path: Path) -> None:
    for package in ("llmcompressor", "torchao", "coremltools", "transformers"):
        pytest.importorskip(package)
    source = realdata / "text" / "tinystories_heldout.txt"
    text = tmp_path / "text.txt"
    text.write_text(source.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    arguments = command(
        realdata / "models" / "stories260K", text, tmp_path / "out",
        "--methods", METHODS, "--bits", "4", "--group-size", "4", "--steps", "2", "--batch", "2",
        "--sequence", "64", "--calibration", "2", "--jobs", "2", "--json",
    )  # fmt: skip
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    assert "13 rows to run: about" in done.stderr and "Failed to load" not in done.stderr
    result = json.loads(done.stdout)
    rows = {row["method"]: row for row in result["rows"]}
    assert set(rows) == set(METHODS.split(","))
    dense = rows["dense"]["ppl_dense"]
    for method, row in rows.items():
        assert row["status"] == "done" and row["ppl_dense"] == dense
        assert dense * 0.8 < row["ppl"] < dense * 3, method  # 4 bits lose little; noise is 500
        assert row["peak_bytes"] > 1 << 26 and row["seconds"] > 0 and row["cpu_seconds"] > 0
    sizes = {method: row["size_bytes"] for method, row in rows.items()}
    assert sizes["edkm"] < sizes["rtn"] == sizes["gptq"] == sizes["awq"] == sizes["smoothquant"]
    assert sizes["gptq@4"] < sizes["rtn"] == sizes["tuned+gptq"] < sizes["dense"] / 2
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    assert "| eDKM | 4 | 8 |" in (tmp_path / "out" / "table.md").read_text()
    work = tmp_path / "out" / "work"
    assert json.loads((work / "shared" / "tuned-0" / "spent.json").read_text())["seconds"] > 0
    chosen = json.loads((work / "edkm-chosen-4-0" / "chosen.json").read_text())
    assert len(chosen) == 3 and max(chosen.values()) < dense * 3
    tries = [work / "edkm-chosen-4-0" / name for name in chosen]
    assert all(
        json.loads((one / "metrics.json").read_text())["config"]["heldout"] is None for one in tries
    )
    assert not (work / "gptq-4-0" / "model").exists()  # measured, and as large as the model
