"""Perplexity and multiple choice against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from edkm.evaluate import collate, multiple_choice, perplexity
from edkm.evaluate.__main__ import app, sequence_for
from edkm.evaluate.choice import read_rows
from edkm.train.data import IGNORE, Sequence


class Unigram(nn.Module):
    """Gives every next token the same probabilities."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(probabilities).log())
        self.config = SimpleNamespace(max_position_embeddings=64)

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


class Letters:
    """A tokenizer of the letters a, b, c and the space."""

    bos_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [" abc".index(letter) for letter in text]}


def row(ids: list[int], labels: list[int] | None = None) -> Sequence:
    return Sequence(ids, labels or ids, list(range(len(ids))))


def test_perplexity_counts_labelled_tokens_only_and_ignores_padding() -> None:
    model = Unigram([0.5, 0.25, 0.125, 0.125]).train()
    assert perplexity(model, [row([0, 0, 0])]) == pytest.approx(2.0)
    rows = [row([0, 0, 0]), row([0, 1, 2, 3, 3], [IGNORE, 1, IGNORE, IGNORE, IGNORE])]
    expected = math.exp(-(2 * math.log(0.5) + math.log(0.25)) / 3)
    assert perplexity(model, rows, batch=2) == pytest.approx(expected)
    assert perplexity(model, rows, batch=1) == pytest.approx(expected)
    assert model.training
    with pytest.raises(ValueError, match="nothing to measure"):
        perplexity(model, [row([0, 1], [IGNORE, IGNORE])])


def test_collate_pads_on_the_right() -> None:
    batch = collate([row([1, 2]), row([3, 2, 1])])
    assert batch["input_ids"].tolist() == [[1, 2, 0], [3, 2, 1]]
    assert batch["labels"].tolist() == [[1, 2, IGNORE], [3, 2, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_multiple_choice_takes_the_likeliest() -> None:
    model = Unigram([0.1, 0.6, 0.2, 0.1])
    rows = [
        {"query": "c", "choices": ["a", "b"], "gold": 0},
        {"query": "c", "choices": ["b", "aaaa"], "gold": 1},
    ]
    result = multiple_choice(model, Letters(), rows)
    assert result.rows == 2
    assert result.accuracy == 0.5  # one letter is likelier than four
    assert result.accuracy_per_character == 1.0
    with pytest.raises(ValueError, match="no rows"):
        multiple_choice(model, Letters(), [])


def test_rows_that_lack_a_key_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"query": "a", "choices": ["b"], "gold": 0})
    path.write_text(f'{good}\n{{"query": "a"}}\n')
    with pytest.raises(ValueError, match="row 2: no 'choices'"):
        read_rows(path)


@pytest.mark.realdata
def test_a_real_model_scores_real_rows(realdata: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = realdata / "models" / "stories260K"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = read_rows(realdata / "eval" / "piqa_200.jsonl")[:10]
    assert multiple_choice(model, tokenizer, rows).rows == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "a", "choices": ["b"], "gold": 1}', r"choices is \['b'\] and gold 1"),
        ('{"query": "a", "choices": "bc", "gold": 0}', "choices is 'bc'"),
        ('{"query": "a", "choices": ["b"], "gold": "0"}', "gold '0'"),
        ("[1]", "a list; an object is needed"),
        ("{oops", "not JSON"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        read_rows(path)


def test_sequences_are_as_long_as_the_model_takes() -> None:
    model = Unigram([0.5, 0.5])
    with pytest.raises(ValueError, match=r"sequence is 65 tokens; .* at most 64"):
        sequence_for(model, 65)
    with pytest.raises(ValueError, match="sequence is 1 tokens"):
        sequence_for(model, 1)
    assert sequence_for(model, 64) == sequence_for(model, None) == 64
    model.config.max_position_embeddings = 4096
    assert sequence_for(model, None) == 256


def test_a_folder_without_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = CliRunner().invoke(app, [str(tmp_path), "--text", "text.txt"])
    assert done.exit_code == 2 and done.stderr.startswith("error: ")
