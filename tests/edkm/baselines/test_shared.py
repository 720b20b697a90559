"""Shared work: done once over processes, finished after an interruption, charged to every user."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from edkm.baselines.shared import MARKER, Spent, once, timed


def append(folder: Path) -> None:
    with (folder / "made.txt").open("a") as file:
        file.write("made\n")
    time.sleep(0.2)  # the others come while it is being done


def test_many_processes_do_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=once, args=(tmp_path / "a", append)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "a" / "made.txt").read_text() == "made\n"


def test_what_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "a", breaks)
    assert not (tmp_path / "a" / MARKER).exists()
    seen: list[str] = []
    once(tmp_path / "a", lambda folder: seen.append((folder / "half.txt").read_text()))
    assert seen == ["half"]


def test_every_user_pays_the_price(tmp_path: Path) -> None:
    def burn(folder: Path) -> None:
        begun = time.process_time()
        while time.process_time() - begun < 0.2:
            pass

    spent: list[Spent] = []
    for _ in range(2):
        with timed() as clock:
            once(tmp_path / "a", burn)
            spent.append(clock.read())
    assert spent[0].cpu_seconds >= 0.2
    assert spent[1].cpu_seconds >= 0.2 and spent[1].seconds >= 0.2  # though it did nothing
