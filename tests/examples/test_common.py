"""The examples as scripts: their options, their pictures, and what they say when something is missing."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest

from gpubackprop.errors import MissingExtraError
from tests.examples.conftest import FOLDER


def test_gallery_knows_every_example(example):
    scripts = {p.stem for p in FOLDER.glob("*.py")} - {"common", "gallery"}
    assert set(example("gallery").EXAMPLES) == scripts


def test_committed_pictures_are_small_and_complete(example):
    pictures = {p.stem: p.stat().st_size for p in (FOLDER / "pictures").glob("*.png")}
    assert set(pictures) == set(example("gallery").EXAMPLES)
    assert sum(pictures.values()) < 300_000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear_fit", []),
        ("two_three_two", []),
        ("one_neuron_per_layer", []),
        ("multi_neuron", []),
        ("any_depth", ["--hidden", "4,4", "--epochs", "2"]),
        ("learning_rates", []),
        ("descent_variants", ["--epochs", "3"]),
        ("xor", ["--epochs", "50", "--seeds", "1"]),
        ("mnist_mlp", ["--data", "digits", "--epochs", "2"]),
        ("loss_functions", []),
        ("large_batch", ["--data", "digits", "--epochs", "2"]),
    ],
)
def test_every_example_runs_and_draws_on_another_device(example, tmp_path, name, options):
    """On the stand-in for a GPU, whose arrays refuse to be taken for the host's."""
    pytest.importorskip("matplotlib")
    if "digits" in options:
        pytest.importorskip("sklearn")
    picture = tmp_path / "deep" / f"{name}.png"
    example(name).main(["--device", "strict", "--plot", str(picture), *options])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert 5_000 < picture.stat().st_size < 80_000


def test_script_runs_from_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "linear_fit.py"), "--device", "cpu"],
        capture_output=True, text=True, timeout=60, cwd=FOLDER.parent,
        env={"PYTHONPATH": str(FOLDER.parent), "PYTHONIOENCODING": "utf-8", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1.500000" in done.stdout


def test_error_is_one_line_with_exit_code_2(example, capsys):
    common = example("common")
    linear_fit = example("linear_fit")
    with pytest.raises(SystemExit) as stop:
        common.run(lambda: linear_fit.main(["--device", "cdua"]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown device")
    assert error.count("\n") == 1


def test_plot_without_matplotlib_names_the_extra(example, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    linear_fit = example("linear_fit")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"gpubackprop\[plot\]"):
        linear_fit.main(["--device", "cpu", "--plot", str(tmp_path / "a.png")])
    assert not list(tmp_path.iterdir())
