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

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m edkm.evaluate runs/tuned/model --text heldout.txt")
def main(
    folder: Annotated[Path, typer.Argument(help="palettized or plain model folder")],
    text: Annotated[Path | None, typer.Option(help="plain text, or an instruction file")] = None,
    choices: Annotated[
        list[Path] | None, typer.Option(help="JSON lines: query, choices, gold")
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="folder of local rows for lm-eval")] = None,
    sequence: Annotated[int, typer.Option(help="tokens per sequence")] = 256,
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
    sequence: int,
    tasks: Path | None = None,
) -> dict[str, Any]:
    """The numbers asked for, by file name."""
    from transformers import AutoTokenizer

    from edkm.evaluate import multiple_choice, perplexity
    from edkm.evaluate.choice import read_rows
    from edkm.train.data import read_examples, tokenize

    if text is None and tasks is None and not choices:
        raise ValueError(
            "there is nothing to measure; give --text FILE, --choices FILE or --tasks FOLDER"
        )
    model, tokenizer = load_any(folder), AutoTokenizer.from_pretrained(folder)
    found: dict[str, Any] = {}
    if text is not None:
        rows = tokenize(read_examples(text), tokenizer, sequence, packing=True)
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


def load_any(folder: Path) -> Any:
    """A palettized folder unpacked, or a plain one as it is. ``ValueError`` for neither."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    from edkm.export import load
    from edkm.export.format import FILE, KEY

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model (config.json); give a model folder")
    if (folder / FILE).is_file():
        with safe_open(folder / FILE, "pt") as file:
            if KEY in (file.metadata() or {}):
                return load(folder, dense=True)
    return AutoModelForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    app()
