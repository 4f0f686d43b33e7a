"""The types of errors. Each message names the argument, its value, the values that are allowed, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GpuBackpropError(Exception):
    """The base of every error that this library raises on purpose."""


class ArgumentError(GpuBackpropError, ValueError):
    """A value that cannot be right: a shape, a label, a range, an unknown name."""


class ArgumentTypeError(GpuBackpropError, TypeError):
    """A value of a kind that cannot be used here: object or complex arrays, text for a number."""


class DisagreementError(ArgumentError):
    """Processes that were to train together are not about to do the same; it is raised in all of them."""


class DeviceError(GpuBackpropError, RuntimeError):
    """A device that is not there, does not work, or was handed an array of another device."""


class DataError(GpuBackpropError, ValueError):
    """A data file that is missing, empty, truncated or of another kind than it should be."""


class CheckpointError(GpuBackpropError, ValueError):
    """A saved model that is missing, damaged, or does not fit the network."""


class CheckFailedError(GpuBackpropError, AssertionError):
    """A layer that does not keep to what every layer promises."""


class MissingExtraError(GpuBackpropError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f'{what} needs an extra that is not installed. Install it with: pip install "gpubackprop[{extra}]"'
        )
        self.extra = extra


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ArgumentError:
    """The error for a name that is not in a table, with the nearest known names.

    `kind` is the singular noun for the message ("loss", "activation", "data set").
    """
    names = sorted(known)
    near = get_close_matches(str(name).lower(), names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ArgumentError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
