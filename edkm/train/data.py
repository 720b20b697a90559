"""Training data: instruction files and plain text, as token sequences with labels.

Contract: Alpaca (``instruction``, ``input``, ``output``) and self-instruct (``instruction``,
``instances``) as JSON or JSON lines, or plain text. Loss falls on the response only; text has
loss everywhere. A bad row is refused with its file and number.
Boundary: reads and tokenizes; batches and order are the trainer's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edkm.train.errors import DataError

IGNORE = -100  # label of a token without loss

# Alpaca's prompt (Stanford Alpaca, README), the format the paper tunes on.
_HEAD = "Below is an instruction that describes a task"
PROMPT_WITH_INPUT = (
    _HEAD + ", paired with an input that provides further context. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n"
    "{input}\n\n### Response:\n"
)
PROMPT = (
    _HEAD + ". Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Example:
    """One instruction with its response, or a text (empty prompt)."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Sequence:
    """Token ids with labels of the same length; ``IGNORE`` where no loss falls."""

    ids: list[int]
    labels: list[int]
    positions: list[int]  # restart at 0 where a packed example begins


def read_examples(path: Path) -> list[Example] | str:
    """The examples of an instruction file, or the text of any other file.

    Raises ``DataError``: no such file, empty, not JSON, a row without the right keys.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"data file {path} {what}; give an Alpaca or self-instruct file, or text")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); convert it first") from error
    if not text.strip():
        raise DataError(f"{path} is empty; training needs at least one example")
    if path.suffix not in (".json", ".jsonl"):
        return text
    rows = list(_rows(path, text))
    if not rows:
        raise DataError(f"{path} holds no rows; training needs at least one example")
    return [example for number, row in rows for example in _examples(path, number, row)]


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row)."""
    try:
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise DataError(f"{path} holds a {type(rows).__name__}; a list of rows is needed")
            yield from enumerate(rows, 1)
            return
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, json.loads(line)
    except json.JSONDecodeError as error:
        where = f"row {number}" if path.suffix == ".jsonl" else f"line {error.lineno}"
        raise DataError(f"{path}, {where}: not JSON ({error.msg}); repair or drop it") from error


def _examples(path: Path, number: int, row: Any) -> Iterator[Example]:
    if not isinstance(row, dict):
        raise DataError(f"{path}, row {number}: a {type(row).__name__}; an object is needed")
    instances = row.get("instances")
    if instances is None:
        instances = [row]
    if not isinstance(instances, list) or not instances:
        raise DataError(f"{path}, row {number}: 'instances' must be a list with an entry")
    for instance in instances:
        fields: dict[str, Any] = {"instruction": row.get("instruction")}
        if isinstance(instance, dict):
            fields |= {"input": instance.get("input", ""), "output": instance.get("output")}
        for key in ("instruction", "output"):
            if not isinstance(fields.get(key), str):
                raise DataError(
                    f"{path}, row {number}: no text under {key!r}, its keys are {sorted(row)}; a "
                    "row needs 'instruction' and 'output' (Alpaca) or 'instances' (self-instruct)"
                )
        yield Example(_prompt(fields["instruction"], fields["input"] or ""), fields["output"])


def _prompt(instruction: str, given: str) -> str:
    if given.strip():
        return PROMPT_WITH_INPUT.format(instruction=instruction, input=given)
    return PROMPT.format(instruction=instruction)


def tokenize(
    source: list[Example] | str, tokenizer: Any, length: int, *, packing: bool
) -> list[Sequence]:
    """Sequences of at most ``length`` tokens. ``DataError`` if nothing is left to learn from."""
    if isinstance(source, str):
        return text_windows(source, tokenizer, length)
    made = [_encode(example, tokenizer, length) for example in source]
    kept = [one for one in made if any(label != IGNORE for label in one.labels[1:])]
    if not kept:
        raise DataError(
            f"in none of {len(made)} examples a response begins within {length} tokens; use a "
            "longer sequence"
        )
    return pack(kept, length) if packing else kept


def text_windows(text: str, tokenizer: Any, length: int) -> list[Sequence]:
    """Consecutive windows of ``length`` tokens, each beginning with BOS (if there is one)."""
    ids = encode(tokenizer, text)
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = length - len(head)
    windows = [head + ids[start : start + body] for start in range(0, len(ids) - body + 1, body)]
    if not windows:
        if len(ids) < 2:
            raise DataError(f"the text gives {len(ids)} tokens; training needs at least two")
        windows = [head + ids]
    return [Sequence(ids, _text_labels(ids, len(head)), list(range(len(ids)))) for ids in windows]


def _text_labels(ids: list[int], head: int) -> list[int]:
    return [IGNORE] * head + ids[head:]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``, without special tokens and without a warning about its length."""
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return found


def _encode(example: Example, tokenizer: Any, length: int) -> Sequence:
    prompt, response = encode(tokenizer, example.prompt), encode(tokenizer, example.response)
    if tokenizer.bos_token_id is not None:
        prompt = [tokenizer.bos_token_id, *prompt]
    if tokenizer.eos_token_id is not None:
        response = [*response, tokenizer.eos_token_id]
    ids = (prompt + response)[:length]
    labels = ([IGNORE] * len(prompt) + response)[:length]
    return Sequence(ids, labels, list(range(len(ids))))


def pack(sequences: list[Sequence], length: int) -> list[Sequence]:
    """Several sequences a row, in order, first fit; positions restart where one begins."""
    rows: list[Sequence] = []
    for one in sequences:
        # a row's first token has no predecessor of its own: it must carry no loss
        labels = [IGNORE, *one.labels[1:]]
        if rows and len(rows[-1].ids) + len(one.ids) <= length:
            rows[-1].ids.extend(one.ids)
            rows[-1].labels.extend(labels)
            rows[-1].positions.extend(one.positions)
        else:
            rows.append(Sequence(list(one.ids), labels, list(one.positions)))
    return rows
