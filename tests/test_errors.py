from __future__ import annotations

import inspect

import pytest

from gpubackprop import errors


def test_each_type_is_also_pythons_own() -> None:
    kinds = {
        errors.ArgumentError: ValueError,
        errors.ArgumentTypeError: TypeError,
        errors.DeviceError: RuntimeError,
        errors.DataError: ValueError,
        errors.CheckpointError: ValueError,
        errors.MissingExtraError: ImportError,
    }
    for kind, python in kinds.items():
        assert issubclass(kind, python)
    own = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(c, errors.GpuBackpropError) for c in own)


def test_missing_extra_says_the_command() -> None:
    error = errors.MissingExtraError("a picture of the curves", "plot")
    assert error.extra == "plot"
    assert str(error) == (
        'a picture of the curves needs an extra that is not installed. Install it with: pip install "gpubackprop[plot]"'
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Adma", "did you mean 'adam'"),
        ("SGD ", "did you mean 'sgd'"),
        ("zzz", "known: adam, rmsprop, sgd"),
        (7, "known: adam"),
    ],
)
def test_unknown_name(name: object, hint: str) -> None:
    error = errors.unknown_name("optimizer", name, {"sgd": 1, "adam": 2, "rmsprop": 3})
    assert isinstance(error, errors.ArgumentError)
    assert str(error).startswith(f"unknown optimizer {name!r}: ")
    assert hint in str(error)
    assert str(error).endswith("known: adam, rmsprop, sgd")
