"""`runs` and `compare`: what is in several run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gpubackprop as gb
from gpubackprop.files.lock import FolderLock, is_held
from tests.cli.commands import refused, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several")
    for name, epochs in (("one", 2), ("[b]two", 3)):
        gb.train_run("xor", out=root / name, epochs=epochs, layers=[4], device="cpu")
    (root / "broken").mkdir()
    (root / "broken" / "settings.json").write_text("{}")
    (root / "no run").mkdir()
    return root


def test_a_line_for_each_run(folder: Path) -> None:
    lines = {line["name"]: line for line in json.loads(run("runs", folder, "--json"))["runs"]}
    assert lines.keys() == {"one", "[b]two", "broken"}
    about = json.loads((folder / "one" / "settings.json").read_bytes())
    assert lines["one"]["score"] == about["result"]["test"]["accuracy"]
    assert [lines["one"][k] for k in ("data", "metric", "status")] == ["xor", "accuracy", "done"]
    assert lines["broken"]["status"].startswith("not readable")
    text = run("runs", folder)
    assert all(word in text for word in ("[b]two", "accuracy", "done"))
    assert "no such folder" in refused("runs", folder / "none")


def test_what_became_of_runs(folder: Path, tmp_path: Path) -> None:
    class Stop(gb.Callback):
        def on_epoch_end(self, trainer: object, record: dict[str, object]) -> None:
            raise KeyboardInterrupt

    def status() -> str:
        (line,) = json.loads(run("runs", tmp_path, "--json"))["runs"]
        return str(line["status"])

    with pytest.raises(KeyboardInterrupt):
        gb.train_run("xor", out=tmp_path / "run", epochs=3, layers=[4], device="cpu", callbacks=[Stop()])
    assert status() == "interrupted"
    lock = FolderLock(tmp_path / "run")
    assert is_held(tmp_path / "run")
    assert status() == "running"
    lock.release()
    assert not is_held(tmp_path / "run")


def test_runs_side_by_side(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    found = json.loads(run("compare", folder / "one", folder / "[b]two", "--json", "--plot", picture))
    assert found["settings"] == {"epochs": [2, 3]}
    assert found["scores"]["epochs"] == [2, 3]
    assert all(isinstance(v, float) for v in found["scores"]["accuracy"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = run("compare", folder / "one", folder / "[b]two")
    assert "layers" not in text
    assert "accuracy" in text


def test_what_cannot_be_compared(folder: Path) -> None:
    one = folder / "one"
    assert "two or more different" in refused("compare", one)
    assert "two or more different" in refused("compare", one, one)
    assert "holds no settings" in refused("compare", one, folder / "broken")
    assert "cannot be read" in refused("compare", one, folder / "no run")
