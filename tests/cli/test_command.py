"""The command as a whole: help, version, unknown names, and processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gpubackprop as gb
from gpubackprop.cli import COMMANDS, _imported, _with_options, app


def test_help_names_every_command() -> None:
    for arguments in ([], ["--help"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"gpubackprop {gb.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["trian"], "unknown command 'trian': did you mean 'train'"), (["--verbose"], "No such option")],
)
def test_unknown_words_get_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom gpubackprop.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'gpubackprop.cli.train', 'matplotlib', 'sklearn', 'pyarrow', 'numba', 'cupy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_of_its_own_tells_errors_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "gpubackprop", "train", "digit"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown data set 'digit'")
    assert done.stderr.count("\n") == 1


def test_the_installed_command() -> None:
    try:
        version("gpubackprop")
    except PackageNotFoundError:
        pytest.skip("gpubackprop is imported from a checkout, not installed")
    (found,) = entry_points(group="console_scripts", name="gpubackprop")
    assert found.value == "gpubackprop.cli:main"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("learning_rate must be positive", "--learning-rate must be positive"),
        ("test must be a share", "--test must be a share"),
        ("out=a/b.c is not empty; say overwrite=True", "--out a/b.c is not empty; say --overwrite"),
        ("say standardize=False, or folder=...", "say --no-standardize, or --folder ..."),
        (
            "Lower learning_rate (it was 3), or say clip_norm=1",
            "Lower --learning-rate (it was 3), or say --clip-norm 1",
        ),
        ("the test rows of data", "the test rows of data"),
        ("my/batch_size.csv: no column 'batch_size'", "my/batch_size.csv: no column 'batch_size'"),
        ("data has 3 columns", "data has 3 columns"),
    ],
)
def test_arguments_get_the_names_of_options(message: str, shown: str) -> None:
    assert _with_options(message, _imported("train")) == shown
    assert _with_options(message, None) == message


def test_warnings_are_one_line(tmp_path: Path) -> None:
    code = "import warnings; from gpubackprop import cli; cli.app = lambda: warnings.warn('a\\nb'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: a b\n"


def test_every_command_that_prints_figures_has_json() -> None:
    """The others write a file, or say whether the installation works."""
    without = {name for name in COMMANDS if not any("--json" in p.opts for p in _imported(name).params)}
    assert without == {"predict", "export", "doctor"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("gpubackprop gradc", "gradcheck"),
        ("gpubackprop train --learn", "--learning-rate"),
        ("gpubackprop tian --l", ""),
    ],
)
def test_shells_complete_commands_and_options(words: str, found: str) -> None:
    environment = {
        **os.environ,
        "_GPUBACKPROP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    code = "from gpubackprop.cli import app; app(prog_name='gpubackprop')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout.split(), done.stderr) == ([found] if found else [], "")
