from __future__ import annotations

from pathlib import Path

import pytest

from gpubackprop.data import NAMES, TextFormat, load
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError


@pytest.mark.parametrize(("name", "near"), [("digit", "digits"), ("fashion_mnist", "fashion-mnist"), ("Iris", "iris")])
def test_unknown_names(name: str, near: str) -> None:
    with pytest.raises(ArgumentError, match=f"unknown data set '{name}': did you mean '{near}'"):
        load(name)


def test_unknown_name_lists_all() -> None:
    with pytest.raises(ArgumentError) as caught:
        load("qqq")
    assert all(name in str(caught.value) for name in NAMES)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("text")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "table.csv").write_text("")
    for path, message in (
        (tmp_path / "notes.doc", "not a kind of file"),
        (tmp_path, "is a folder"),
        (tmp_path / "folder.csv", "is a folder"),
        (tmp_path / "tables.csv", "no such file; did you mean table.csv"),
        (tmp_path / "table.csv", "is empty"),
        (tmp_path / "digits", "not a kind of file"),
    ):
        for source in (path, str(path)):
            with pytest.raises(DataError, match=message):
                load(source)


def test_a_name_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("xor").write_text("text")
    assert load("xor").name == "xor"
    with pytest.raises(DataError, match="not a kind of file"):
        load("./xor")


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    for source, options, message in (
        ("iris", {"target": "species"}, "target is for tables"),
        ("a.npz", {"target": "y"}, "target is for tables"),
        ("iris", {"format": TextFormat(decimal=",")}, "decimal is for tables"),
        ("a.npy", {"format": TextFormat(missing=("", "-999"))}, "missing is for tables"),
        ("iris", {"folder": tmp_path}, "folder is for"),
        ("iris", {"task": "regression"}, "'iris' is classification"),
        ("diabetes", {"task": "classification"}, "'diabetes' is regression"),
        ("iris", {"task": "clustering"}, "unknown task"),
    ):
        with pytest.raises(ArgumentError, match=message):
            load(source, **options)
    with pytest.raises(ArgumentTypeError, match="source is a int"):
        load(3)  # type: ignore[arg-type]


def test_max_bytes_is_not_ignored(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"not opened")
    for source in (str(tmp_path / "d.npz"), "xor"):
        with pytest.raises(ArgumentError, match="max_bytes is for tables"):
            load(source, max_bytes=10)
