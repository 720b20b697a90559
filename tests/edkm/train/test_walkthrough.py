"""The walk-through of docs/training.md, as it is printed, at small size."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
DOCS = Path(__file__).resolve().parents[3] / "docs" / "training.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_the_walk_through_runs(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    def here(text: str) -> str:
        for old, new in [
            ("path/to/llama", str(tiny)),
            ("path/to/alpaca.json", str(alpaca)),
            ("runs/", f"{tmp_path}/"),
            ("--max-steps 300", "--max-steps 2 --sequence 128"),
        ]:
            text = text.replace(old, new)
        return text

    for command in here(blocks("sh")[0]).replace("\\\n", " ").strip().splitlines():
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain" / "config.json").is_file()
    done = subprocess.run(
        [sys.executable, "-c", here(blocks("python")[0])], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
