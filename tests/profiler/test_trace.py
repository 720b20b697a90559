"""The command line: what it prints, what it writes, how it refuses, how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from profiler import open_run
from profiler.jobs import Job, ignored
from profiler.trace import app

ROW_KEYS = {
    "name", "marshal", "uniquify", "shard", "fused", "saved_tensors", "logical_bytes",
    "host_bytes", "peer_bytes", "device_bytes", "d2h_bytes", "h2d_bytes", "peak_bytes",
    "forward_s", "backward_s", "reduction", "max_hops", "grad_rel_error",
}  # fmt: skip
TOP_KEYS = {
    "schema", "layer", "matrix", "shape", "dtype", "bits", "clusters", "iterations", "learners",
    "device", "simulated_host", "simulated_learners", "rows",
}  # fmt: skip


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_json_has_the_keys_of_the_contract(tmp_path) -> None:
    done = _invoke("--layer", "attn0", "--model", "llama-tiny", "--out", tmp_path / "r", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed.keys() >= TOP_KEYS
    assert [row["name"] for row in printed["rows"]] == ["none", "M", "M+S", "M+U", "M+U+S", "fused"]
    assert all(row.keys() >= ROW_KEYS for row in printed["rows"])
    assert printed["rows"][0]["reduction"] == 1.0
    written = json.loads((tmp_path / "r" / "ablation.json").read_text())
    assert {key: printed[key] for key in written} == written


def test_the_table_stands_beside_the_papers_and_pictures_are_drawn(tmp_path) -> None:
    done = _invoke("--layer", "attn0", "--model", "llama-tiny", "--out", tmp_path / "r")
    assert done.exit_code == 0, done.output
    for word in ("paper", "M+U+S", "hops", str(tmp_path / "r")):
        assert word in done.stdout
    for name in ("host_bytes", "graph", "memory"):
        for suffix, head in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            picture = tmp_path / "r" / "pictures" / f"{name}.{suffix}"
            assert picture.read_bytes().startswith(head)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "attn99"], "layer 'attn99': no such layer; valid are attn0 ... attn31"),
        (["--layer", "attn0", "--matrix", "up_proj"], "matrix 'up_proj': attn0 has no such"),
        (["--layer", "attn0", "--model", "llama-9b"], "model 'llama-9b': neither a preset nor"),
        (["--layer", "attn0", "--model", "no/where"], "model 'no/where': no checkpoint there"),
        (["--layer", "attn0", "--bits", "9"], "bits 9: must be from 1 to 8"),
        (["--layer", "attn0", "--tau", "0"], "tau 0.0: the softmax temperature must be above 0"),
        (["--layer", "attn0", "--configs", "M,Q"], "configs Q: unknown; valid are none, M"),
        (["--layer", "attn0", "--text", "x"], "text 'x': the preset llama-7b has shapes but"),
        (["--layer", "attn0", "--device", "tpu9"], "device 'tpu9': cannot be used"),
    ],
)
def test_wrong_use_says_what_is_right_and_exits_2(
    arguments: list[str], message: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = _invoke(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten_without_force(tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    common = ("--layer", "attn0", "--model", "llama-tiny", "--configs", "M", "--no-pictures")
    for extra in ((), ("--force",)):
        done = _invoke(*common, "--out", mine, *extra)
        assert done.exit_code == 2 and "run folder" in done.stderr
    assert (mine / "thesis.txt").read_text() == "precious"
    assert _invoke(*common, "--out", tmp_path / "r").exit_code == 0
    assert _invoke(*common, "--out", tmp_path / "r").exit_code == 2
    assert _invoke(*common, "--out", tmp_path / "r", "--force").exit_code == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    done = _invoke("--layer", "attn0", "--model", "llama-tiny", "--out", tmp_path / "file" / "r")
    assert done.exit_code == 2 and "cannot be written" in done.stderr


def _until(path: Path, rows: int, child: subprocess.Popen[str]) -> None:
    """Wait until the run has so many rows."""
    for _ in range(600):
        assert child.poll() is None, child.communicate()
        try:
            if len(json.loads((path / "ablation.json").read_text())["rows"]) >= rows:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError("no row was ever written")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_opens_with_its_rows(tmp_path, sent: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "profiler.trace", "--layer", "attn0", "--model", "llama-160m",
         "--iterations", "9", "--bits", "4", "--out", str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _until(tmp_path / "r", 2, child)
    os.kill(child.pid, sent)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == (130 if sent is signal.SIGINT else -9), errors
    assert "Traceback" not in errors
    with open_run(tmp_path / "r") as run:
        assert run.ablation is not None and len(run.ablation["rows"]) >= 2
        assert run.note is not None
        assert run.closed == (sent is signal.SIGINT)
        assert run.sql("select count(*) n from saves where step = 0")["n"].to_pylist() == [92]


@pytest.mark.realdata
def test_a_checkpoint_is_traced_inside_a_real_step(tmp_path, realdata) -> None:
    done = _invoke(
        "--layer", "attn0", "--model", realdata / "models/stories260K",
        "--text", realdata / "text/tinystories_train.txt", "--out", tmp_path / "r", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["matrix"] == "all" and len(printed["matrices"]) == 4
    assert printed["rows"][0]["host_bytes"] == 100 * 3 * 64 * 64
    assert (tmp_path / "r" / "pictures" / "graph.png").exists()
    with open_run(tmp_path / "r") as run:
        modules = set(run.table("saves")["module"].to_pylist())
    assert {"model.layers.4.mlp.act_fn", "model.norm", "model.embed_tokens"} <= modules


@pytest.mark.realdata
def test_a_short_or_missing_text_is_refused(tmp_path, realdata) -> None:
    (tmp_path / "short.txt").write_text("Once upon a time")
    model = ("--layer", "mlp1", "--model", realdata / "models/stories260K", "--out", tmp_path / "r")
    done = _invoke(*model, "--text", tmp_path / "short.txt")
    assert done.exit_code == 2 and "give a longer text" in done.stderr
    done = _invoke(*model, "--text", tmp_path / "none.txt")
    assert done.exit_code == 2 and "no such file" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("job", "given", "told"),
    [
        ("program", ["program", "level", "steps", "out", "force"], None),
        ("program", ["bits", "out", "json"], "--bits, --json: ignored, a program has no use"),
        ("plan", ["fake", "lora", "steps"], "--steps: ignored, the plan of a model (--fake)"),
        ("layer", ["layer", "bits", "optimizer"], "--optimizer: ignored, the ablation of a layer"),
    ],
)
def test_options_of_another_job_are_named(job: Job, given: list[str], told: str | None) -> None:
    found = ignored(job, given)
    assert found is None if told is None else told in str(found)


def test_every_option_belongs_to_a_job_and_is_seen_when_given(tmp_path) -> None:
    names = {parameter.opts[-1].lstrip("-") for parameter in get_command(app).params} - {"help"}
    for name in names:
        assert any(ignored(job, [name]) is None for job in get_args(Job)), name
    (tmp_path / "empty.py").write_text("")
    run = (
        "--out",
        tmp_path / "run",
        "--bits",
        "4",
        "--level",
        "summary",
        "--",
        tmp_path / "empty.py",
    )
    done = _invoke(*run)
    assert done.exit_code == 0 and "--bits: ignored" in done.stderr and "--level" not in done.stderr
