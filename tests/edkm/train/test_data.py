"""Instruction files become sequences whose loss falls on the response; bad rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edkm.evaluate import collate
from edkm.train.data import IGNORE, pack, read_examples, tokenize
from edkm.train.errors import DataError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny)


def test_loss_falls_on_the_response_and_its_end(alpaca: Path, tokenizer: Any) -> None:
    example = read_examples(alpaca)[0]
    (one, *_) = tokenize([example], tokenizer, 128, packing=False)
    counted = [token for token, label in zip(one.ids, one.labels, strict=True) if label != IGNORE]
    assert tokenizer.decode(counted) == "then the cat was very happy . </s>"
    assert one.ids[0] == tokenizer.bos_token_id
    assert "Input" in example.prompt and "Input" not in read_examples(alpaca)[1].prompt


def test_self_instruct_and_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    instances = [{"input": "", "output": "sat"}, {"input": "on", "output": "ran"}]
    path.write_text(json.dumps({"instruction": "the cat", "instances": instances}) + "\n\n")
    assert [e.response for e in read_examples(path)] == ["sat", "ran"]


def test_packing_loses_no_label_and_keeps_examples_apart(
    alpaca: Path, tokenizer: Any, tiny: Path
) -> None:
    rows = tokenize(read_examples(alpaca), tokenizer, 128, packing=False)
    packed = pack(rows, 128)
    assert len(packed) < len(rows) and all(len(row.ids) <= 128 for row in packed)

    def count(many: list[Any]) -> int:
        return sum(label != IGNORE for row in many for label in row.labels)

    assert count(packed) == count(rows)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    together = model(**_inputs(packed[:1])).logits[0]
    start = len(rows[0].ids)
    alone = model(**_inputs(rows[1:2])).logits[0]
    torch.testing.assert_close(together[start : start + len(rows[1].ids)], alone)


def _inputs(rows: list[Any]) -> dict[str, torch.Tensor]:
    inputs = collate(rows)
    inputs.pop("labels")
    return {**inputs, "use_cache": False}  # type: ignore


def test_text_windows_cover_the_text_once(tokenizer: Any) -> None:
    words = ["cat", "dog", "sat", "ran"] * 10
    windows = tokenize(" ".join(words), tokenizer, 11, packing=True)
    assert [len(w.ids) for w in windows] == [11] * 4
    assert tokenizer.decode([i for w in windows for i in w.ids[1:]]) == " ".join(words)
    assert all(w.labels[0] == IGNORE and w.labels[1:] == w.ids[1:] for w in windows)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "", "is empty"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", "{}", "a list of rows"),
        (
            "a.json",
            '[{"instruction": "x", "output": "y"}, {"prompt": "x"}]',
            "row 2: no text under",
        ),
        ("a.json", '[{"instruction": "x", "answer": "y"}]', "'output', its keys are"),
        ("a.json", "[3]", "row 1: a int"),
        ("a.json", '[{"instruction": "x", "instances": []}]', "row 1: 'instances'"),
        ("a.json", "[1,", "line 1: not JSON"),
        ("a.jsonl", '{"instruction": "x", "output": "y"}\nnonsense', "row 2: not JSON"),
        ("a.txt", "  \n", "is empty"),
    ],
)
def test_bad_files_name_the_row(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_examples(path)


def test_other_refusals(tmp_path: Path, tokenizer: Any, alpaca: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_examples(tmp_path / "none.json")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_examples(tmp_path / "b.txt")
    with pytest.raises(DataError, match="a response begins within 5 tokens"):
        tokenize(read_examples(alpaca), tokenizer, 5, packing=True)
    with pytest.raises(DataError, match="at least two"):
        tokenize("cat", tokenizer, 5, packing=True)
