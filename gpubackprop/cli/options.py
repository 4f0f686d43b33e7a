"""Options of commands that are fields of `Settings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_type_hints

from typer import Option

from gpubackprop.pipeline.settings import Settings

Command = TypeVar("Command", bound=Callable[..., None])


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
