"""Options of commands that are fields of `Settings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_type_hints

from typer import Context, Option

from gpubackprop.errors import ArgumentError
from gpubackprop.pipeline.settings import Settings

Command = TypeVar("Command", bound=Callable[..., None])


def given(context: Context) -> set[str]:
    """The names of the options and arguments that stand on the command line."""
    return {p for p in context.params if getattr(context.get_parameter_source(p), "name", "") == "COMMANDLINE"}


def refuse(context: Context, names: set[str], why: str) -> None:
    """ArgumentError where options of these names are given, which would count for nothing."""
    if needless := sorted(names & given(context)):
        raise ArgumentError(f"{why}: leave out {', '.join(f'{name}=...' for name in needless)}")


NEW = {"layers", "widths", "activation", "output_activation", "loss", "dropout", "l1", "l2", "task"}
"""Options about a network that is made for the command, or about its data."""
OWN = "the network is that of the run"
"""Why they cannot stand beside a run."""


def with_settings(*names: str, before: str, **defaults: Any) -> Callable[[Command], Command]:
    """Give a command an option for these fields of `Settings` (none: all), in front of its parameter `before`: it gets them as
    `**asked`. defaults: where they are others than those of `Settings`."""
    kinds = get_type_hints(Settings)
    added = []
    for field in fields(Settings):
        if names and field.name not in names:
            continue
        # What may be a list, or a number or a word, in Python is text in the command.
        kind = str | None if field.name in ("layers", "batch_size") else kinds[field.name]
        flag = [f"--{field.name.replace('_', '-')}"] if kind is bool and not field.default else []
        option = Option(*flag, help=field.metadata["help"], min=field.metadata["least"])
        default = defaults.get(field.name, field.default)
        added.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
            )
        )

    def add(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        at = next(i for i, p in enumerate(own) if p.name == before)
        parameters = [*own[:at], *added, *(p.replace(kind=p.KEYWORD_ONLY) for p in own[at:])]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return add
