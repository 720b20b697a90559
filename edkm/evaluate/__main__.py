"""``python -m edkm.evaluate FOLDER``: perplexity of a text, accuracy on multiple choice.

Contract: FOLDER is a palettized folder or a plain transformers one. Exit code 2 for bad input.
Boundary: options and printing only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

_SEQUENCE = 256
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m edkm.evaluate runs/tuned/model --text heldout.txt")
def main(
    folder: Annotated[Path, typer.Argument(help="palettized or plain model folder")],
    text: Annotated[Path | None, typer.Option(help="plain text, or an instruction file")] = None,
    choices: Annotated[
        list[Path] | None, typer.Option(help="JSON lines: query, choices, gold")
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="folder of local rows for lm-eval")] = None,
    sequence: Annotated[
        int | None, typer.Option(help="tokens per sequence [default: 256, or what the model takes]")
    ] = None,
) -> None:
    """Measure a model; prints JSON."""
    try:
        print(json.dumps(measure(folder, text, choices or [], sequence, tasks), indent=1))
    except (ValueError, OSError) as error:  # transformers: no weights or no tokenizer there
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        raise typer.Exit(2) from error


def measure(
    folder: Path,
    text: Path | None,
    choices: list[Path],
    sequence: int | None,
    tasks: Path | None = None,
) -> dict[str, Any]:
    """The numbers asked for, by file name."""
    from edkm.evaluate import multiple_choice, perplexity
    from edkm.evaluate.choice import read_rows
    from edkm.train.data import read_examples, tokenize
    from edkm.train.prepare import read_tokenizer

    if text is None and tasks is None and not choices:
        raise ValueError(
            "there is nothing to measure; give --text FILE, --choices FILE or --tasks FOLDER"
        )
    model, tokenizer = load_any(folder), read_tokenizer(folder)
    window = sequence_for(model, sequence)
    found: dict[str, Any] = {}
    if text is not None:
        rows = tokenize(read_examples(text), tokenizer, window, packing=True)
        found[text.name] = {"perplexity": perplexity(model, rows)}
    for path in choices:
        result = multiple_choice(model, tokenizer, read_rows(path))
        found[path.name] = {
            "acc": result.accuracy,
            "acc_norm": result.accuracy_per_character,
            "rows": result.rows,
        }
    if tasks is not None:
        from edkm.evaluate.tasks import run_tasks  # needs the extra `compare`

        found["tasks"] = run_tasks(model, tokenizer, tasks)
    return found


def sequence_for(model: Any, sequence: int | None) -> int:
    """Tokens of a sequence: as given, else 256 or all that ``model`` takes if that is fewer.

    ``ValueError`` if the model cannot predict within as many as are given.
    """
    longest = getattr(model.config, "max_position_embeddings", None) or sequence or _SEQUENCE
    if sequence is None:
        return min(_SEQUENCE, longest)
    if not 2 <= sequence <= longest:
        raise ValueError(
            f"sequence is {sequence} tokens; predicting takes at least 2, and this model at most "
            f"{longest}: give --sequence {longest} or less"
        )
    return sequence


def load_any(folder: Path) -> Any:
    """A palettized folder unpacked, or a plain one as it is. ``ValueError`` for neither."""
    from transformers import AutoModelForCausalLM

    from edkm.export import load
    from edkm.export.kind import is_palettized

    if is_palettized(folder):
        return load(folder, dense=True)
    return AutoModelForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    app()
