"""What the README and docs/ name exists: files, headings, commands, options, Python names.

Boundary: that a command does what a page says is tested beside the command, and the figures of
the README in test_figures.py.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = {
    "profiler": "profiler.__main__",
    "profiler.trace": "profiler.trace",
    "edkm.train": "edkm.train.__main__",
    "edkm.evaluate": "edkm.evaluate.__main__",
    "edkm.export": "edkm.export.__main__",
    "edkm.compare": "edkm.compare.__main__",
}
OTHERS = {"--nproc-per-node", "--constraint", "--force-exclude"}  # of torchrun, pip and ruff
pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")


def program(command: str) -> Any:
    return typer.main.get_command(importlib.import_module(COMMANDS[command]).app)


def parts(command: str) -> dict[str, Any]:
    """A command and its subcommands, by the words that call them."""
    whole = program(command)
    inner = getattr(whole, "commands", None)
    return {f"{command} {k}": v for k, v in inner.items()} if inner else {command: whole}


def options(command: Any) -> set[str]:
    return {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def code(page: Path) -> list[str]:
    """What stands in backticks, outside fenced blocks."""
    return re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    )


def lines(page: Path) -> list[str]:
    """The command lines of a page: fenced, indented, or in backticks."""
    fenced = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    indented = re.findall(r"^ {4}(python .*)$", page.read_text(), re.M)
    return [*fenced, *indented, *(c for c in code(page) if "python -m " in c)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_every_page_is_listed() -> None:
    listed = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in listed, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_results_exist(page: Path) -> None:
    for name in code(page):
        if re.fullmatch(r"(benchmarks|tests|docs|edkm|profiler|dashboard)/[\w./-]*", name):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        elif re.fullmatch(r"(benchmarks/results/)?[\w-]+_\*\.json", name):
            results = ROOT / "benchmarks" / "results"
            assert list(results.glob(Path(name).name)), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_take_the_options_that_are_shown(page: Path) -> None:
    for line in lines(page):
        check_line(line, page.name)


@pytest.mark.parametrize("command", [part for name in COMMANDS for part in parts(name)])
def test_help_ends_with_examples_that_work(command: str) -> None:
    shown = parts(" ".join(command.split()[:1]))[command].epilog
    examples = re.findall(r"(?:python|torchrun) .*", shown or "")
    assert examples, f"{command}: --help shows no example"
    assert any(f"-m {command}" in example for example in examples)
    for example in examples:
        check_line(example, command)


def check_line(line: str, where: str) -> None:
    """Raises unless the module of a command line exists and takes its options."""
    found = re.search(r"(?:python|torchrun .*?) (?:-m ([\w.]+)|(benchmarks/\w+\.py))(.*)", line)
    if found is None:
        return
    module, script, rest = found.groups()
    words = shlex.split(rest, comments=True)
    given = {w.partition("=")[0] for w in words[: (*words, "--").index("--")] if w[:2] == "--"}
    if module in COMMANDS:
        inner = parts(module)
        name = module if module in inner else f"{module} {words[0] if words else ''}".strip()
        if name == "profiler" or words == ["..."]:
            return
        assert name in inner, f"{where}: {line}"
        known = options(inner[name])
    else:
        path = ROOT / (script or module.replace(".", "/"))
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert source.exists(), f"{where}: {line}"
        known = set(re.findall(r'"(--[\w-]+)"', source.read_text())) | {"--help"}
    assert given <= known, f"{where}: {line}: {sorted(given - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_are_somebodys(page: Path) -> None:
    known = {o for name in COMMANDS for part in parts(name).values() for o in options(part)}
    for file in (f for d in ("benchmarks", "dashboard", "edkm") for f in (ROOT / d).rglob("*.py")):
        known |= set(re.findall(r'"(--[\w-]+)"', file.read_text()))
    shown = {o for c in code(page) for o in re.findall(r"(?<!\S)--[a-z][\w-]*", c)}
    assert shown <= known | OTHERS, f"{page.name}: {sorted(shown - known - OTHERS)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{page.name}: {node.module}.{name.name}"
    for name in code(page):
        if re.fullmatch(r"(edkm|profiler|dashboard)(\.[a-zA-Z_]\w*)+", name):
            assert resolves(name), f"{page.name}: {name}"


def resolves(dotted: str) -> bool:
    head, *rest = dotted.split(".")
    found: Any = importlib.import_module(head)
    for index, word in enumerate(rest):
        if not hasattr(found, word):
            path = ".".join([head, *rest[: index + 1]])
            if path == "edkm.train.callbacks":  # the group of entry points
                return True
            if not hasattr(found, "__path__") or find_spec(path) is None:
                return False
            found = importlib.import_module(path)
        else:
            found = getattr(found, word)
    return True


def test_targets_of_make_exist() -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        shown = set(re.findall(r"\bmake ([a-z]+)", "\n".join([*blocks(page, "sh"), *code(page)])))
        assert shown <= known, f"{page.name}: {sorted(shown - known)}"
