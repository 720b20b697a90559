"""lm-eval on local rows: kinds by their keys, and the same scores as our own multiple choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edkm.evaluate import multiple_choice
from edkm.evaluate.choice import read_rows
from edkm.evaluate.tasks import rows_files, run_tasks, task_config

CHOICE = {"query": "a", "choices": ["b", "c"], "gold": 0}
CONTEXTS = {"context_options": ["a", "b"], "continuation": "c", "gold": 1}
ANSWER = {"context": "a", "answer": "b", "aliases": ["b", "B"]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "kind", "target"),
    [
        (CHOICE, "multiple_choice", "gold"),
        (CONTEXTS, "multiple_choice", "continuation"),
        (ANSWER, "generate_until", "aliases"),
    ],
)
def test_the_kind_follows_from_the_keys(
    tmp_path: Path, row: dict[str, Any], kind: str, target: str
) -> None:
    config = task_config(write(tmp_path / "some_set_200.jsonl", [row]))
    assert config["task"] == "some_set"
    assert (config["output_type"], config["doc_to_target"]) == (kind, target)


def test_folders_and_rows_that_are_no_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.jsonl file"):
        rows_files(tmp_path)
    with pytest.raises(ValueError, match=r"a row has the keys \['question'\]"):
        task_config(write(tmp_path / "odd.jsonl", [{"question": "a"}]))


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore")  # lm-eval's own, and those of what it imports
def test_the_harness_scores_as_we_do(realdata: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    transformers = pytest.importorskip("transformers")
    folder = realdata / "models" / "stories260K"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for name in ("piqa", "winogrande", "triviaqa"):
        lines = (realdata / "eval" / f"{name}_200.jsonl").read_text(encoding="utf-8")
        first = lines.splitlines()[:12]
        (tmp_path / f"{name}_12.jsonl").write_text("\n".join(first) + "\n", encoding="utf-8")
    scores = run_tasks(model, tokenizer, tmp_path)
    ours = multiple_choice(model, tokenizer, read_rows(tmp_path / "piqa_12.jsonl"))
    assert scores["piqa, acc"] == pytest.approx(ours.accuracy)
    assert scores["piqa, acc_norm"] == pytest.approx(ours.accuracy_per_character)
    assert 0 < scores["winogrande, acc"] < 1
    assert scores["triviaqa, exact_match"] <= 0.2  # a model of stories knows no trivia
