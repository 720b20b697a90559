"""Multiple choice by likelihood: the choice whose tokens the model finds most likely.

Contract: rows ``{"query", "choices", "gold"}``; accuracy by the sum of log likelihoods and by
that sum over the choice's length in characters (``acc`` and ``acc_norm`` of the usual harness).
Boundary: scores given rows; few-shot prompts and downloads are not here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChoiceResult:
    """Shares of the rows answered rightly."""

    rows: int
    accuracy: float
    accuracy_per_character: float


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. ``ValueError`` names the row that cannot be scored."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, row {number}: not JSON ({error.msg}); repair it") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: a {type(row).__name__}; an object is needed")
        for key in ("query", "choices", "gold"):
            if key not in row:
                raise ValueError(
                    f"{path}, row {number}: no {key!r}, its keys are {sorted(row)}; a row needs "
                    "'query', 'choices' and 'gold'"
                )
        choices, gold = row["choices"], row["gold"]
        if not (isinstance(choices, list) and gold in range(len(choices))):
            raise ValueError(
                f"{path}, row {number}: choices is {choices!r} and gold {gold!r}; choices is a "
                "list, and gold the place of the right one in it, from 0"
            )
        rows.append(row)
    return rows


@torch.no_grad()
def multiple_choice(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> ChoiceResult:
    """Accuracy of ``model`` on ``rows``. ``ValueError`` without rows."""
    if not rows:
        raise ValueError("there are no rows to score")
    was_training = model.training
    model.eval()
    right = right_long = 0
    for row in rows:
        scores = choice_scores(model, tokenizer, row["query"], row["choices"])
        lengths = torch.tensor([max(1, len(choice)) for choice in row["choices"]])
        right += int(scores.argmax()) == row["gold"]
        right_long += int((scores / lengths).argmax()) == row["gold"]
    model.train(was_training)
    return ChoiceResult(len(rows), right / len(rows), right_long / len(rows))


def choice_scores(model: Any, tokenizer: Any, query: str, choices: list[str]) -> Tensor:
    """``[choices]``: log likelihood of each choice after ``query`` and a space."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    limit = getattr(model.config, "max_position_embeddings", 1 << 30)
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    scores = []
    for choice in choices:
        start = len(encode(query))
        ids = encode(f"{query} {choice}")
        start = min(start, len(ids) - 1)
        tail = ids[start:][-(limit - 1) :]
        context = (head + ids[:start])[-(limit - len(tail)) :]
        tokens = torch.tensor([context + tail])
        logits = model(input_ids=tokens, use_cache=False).logits[0].float().log_softmax(-1)
        first = max(1, len(context))
        target = tokens[0, first:]
        scores.append(logits[first - 1 : -1].gather(1, target.unsqueeze(1)).sum())
    return torch.stack(scores)
