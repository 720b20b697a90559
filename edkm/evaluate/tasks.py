"""lm-eval's harness on rows that lie in a folder: nothing is fetched.

Contract: each ``NAME.jsonl`` (or ``NAME_200.jsonl``, first rows of a set) is a task ``NAME``; the
kind follows from its first row's keys: ``query, choices, gold`` is multiple choice by likelihood;
``context_options, continuation, gold`` likewise with one continuation after several contexts
(Winogrande); ``context, answer, aliases`` is an exact match of what is generated (TriviaQA).
Boundary: zero-shot; scores are lm-eval's. Extra ``compare``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

KINDS: dict[tuple[str, ...], dict[str, Any]] = {
    ("query", "choices", "gold"): {
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    ("context_options", "continuation", "gold"): {
        "output_type": "multiple_choice",
        "doc_to_text": "gold",  # lm-eval's way to say which context is right
        "doc_to_choice": "context_options",
        "doc_to_target": "continuation",
        "metric_list": [{"metric": "acc"}],
    },
    ("context", "answer", "aliases"): {
        "output_type": "generate_until",
        "doc_to_text": "context",
        "doc_to_target": "aliases",
        "generation_kwargs": {"until": ["\n", ".", ","], "do_sample": False, "max_gen_toks": 16},
        "filter_list": [
            {
                "name": "remove_whitespace",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    },
}


def run_tasks(
    model: Any, tokenizer: Any, folder: Path, *, limit: int | None = None, batch: int = 16
) -> dict[str, float]:
    """Score of each task, as ``"piqa, acc"``: shares of rows, 0 to 1.

    ``limit``: rows of each task (None: all). ``ValueError`` for a folder without rows, or rows
    of no known kind.
    """
    configs = [task_config(path) for path in rows_files(folder)]
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1"):
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        found = lm_eval.simple_evaluate(
            model=harness,
            tasks=configs,
            limit=limit,
            log_samples=False,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
    return {
        f"{task}, {metric.split(',')[0]}": float(value)
        for task, scores in found["results"].items()
        for metric, value in scores.items()
        if "," in metric and "stderr" not in metric
    }


def rows_files(folder: Path) -> list[Path]:
    """The ``.jsonl`` files of ``folder``, by name. ``ValueError`` if there is none."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no .jsonl file; give a folder of rows")
    return files


def task_config(path: Path) -> dict[str, Any]:
    """lm-eval's configuration for the rows in ``path``. ``ValueError`` for unknown keys."""
    with path.open(encoding="utf-8") as file:
        keys = sorted(json.loads(file.readline() or "{}"))
    for wanted, settings in KINDS.items():
        if set(wanted) <= set(keys):
            return {
                "task": re.sub(r"_\d+$", "", path.stem),
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"validation": str(path)}},
                "validation_split": "validation",
                "num_fewshot": 0,
                **settings,
            }
    raise ValueError(
        f"{path}: a row has the keys {keys}; a task needs one of "
        f"{', or '.join(str(list(kind)) for kind in KINDS)}"
    )
