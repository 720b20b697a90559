"""``python -m edkm.export FOLDER``: a palettized folder for other tools.

Contract: exit code 2 for bad input, with one line on stderr. Boundary: options only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m edkm.export runs/tuned/model --dense runs/plain")
def main(
    folder: Annotated[Path, typer.Argument(help="palettized folder, the `model` of a run")],
    dense: Annotated[Path | None, typer.Option(help="write plain Hugging Face here")] = None,
    coreml: Annotated[Path | None, typer.Option(help="write an .mlpackage here")] = None,
    length: Annotated[int, typer.Option(help="tokens of the Core ML program")] = 64,
    force: Annotated[bool, typer.Option(help="replace a model that is there")] = False,
) -> None:
    """Write a palettized model as a plain one or as a Core ML program."""
    from edkm.export import bake

    try:
        if dense is None and coreml is None:
            raise ValueError("there is nothing to write; give --dense OUT or --coreml OUT")
        if dense is not None:
            bake(folder, dense, force=force)
        if coreml is not None:
            from edkm.export.coreml import to_coreml

            to_coreml(folder, coreml, length=length, force=force)
    except ImportError as error:
        _fail(f"{error}; Core ML needs: pip install coremltools==9.0")
    except (ValueError, OSError) as error:  # OSError: OUT cannot be written
        _fail(str(error))


def _fail(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"error: {message}", markup=False)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
