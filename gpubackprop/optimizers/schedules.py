"""Learning-rate schedules: a factor of the base rate for each step. All are plain functions of the step number, computed on
the host in float64, so that a run that is resumed goes on exactly where it was.

`step` counts from 0; `total` is the number of steps of the whole run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any, ClassVar

from gpubackprop.checks import fraction, from_table, positive, positive_fraction, whole_number
from gpubackprop.errors import ArgumentError


@dataclass(frozen=True)
class Schedule:
    """factor(step) multiplies the optimizer's learning rate; after `warmup` steps of linear increase from 0.

    warmup: number of steps before the schedule proper starts, whose step s has the factor (s + 1) / (warmup + 1)
    times the schedule's own first factor (Goyal et al., 2017).
    total: steps of the whole run, warm-up included; None means the steps of the fit that is running, in schedules that need
    their number: each fit then goes through the schedule once.
    """

    name: ClassVar[str] = ""
    needs_total: ClassVar[bool] = False
    """Whether the factor depends on the number of steps of the whole run."""
    warmup: int = 0
    total: int | None = None

    def __post_init__(self) -> None:
        whole_number("warmup", self.warmup, least=0)
        if self.total is not None and whole_number("total", self.total) <= self.warmup:
            raise ArgumentError(f"total must be more than the {self.warmup} warm-up steps; got {self.total}")

    def __call__(self, step: int) -> float:
        """The factor of the learning rate at `step`."""
        if step < self.warmup:
            return self.shape(0) * (step + 1) / (self.warmup + 1)
        return self.shape(step - self.warmup)

    def shape(self, step: int) -> float:
        """The factor `step` steps after the warm-up."""
        raise NotImplementedError(f"{type(self).__name__} must define shape(step)")

    def over(self, total: int) -> Schedule:
        """The same schedule for a run of `total` steps, if it does not say itself how many."""
        return replace(self, total=max(total, self.warmup + 1)) if self.total is None else self

    def _progress(self, step: int) -> float:
        if self.total is None:
            raise ArgumentError(f"the {self.name} schedule needs total=, the number of steps of the whole run")
        return min(step / max(self.total - self.warmup, 1), 1.0)


@dataclass(frozen=True)
class Constant(Schedule):
    """1."""

    name = "constant"

    def shape(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """gamma^k after k times `every` steps; without `every`, a third of the run."""

    name = "step"
    gamma: float = 0.1
    every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every is not None:
            whole_number("every", self.every)
        positive_fraction("gamma", self.gamma)

    @property
    def needs_total(self) -> bool:  # type: ignore[override]
        return self.every is None

    def shape(self, step: int) -> float:
        if self.every is not None:
            return float(self.gamma ** (step // self.every))
        return float(self.gamma ** min(int(3 * self._progress(step)), 2))


@dataclass(frozen=True)
class Exponential(Schedule):
    """gamma^step; without `gamma`, that which ends at `final` after the whole run."""

    name = "exponential"
    gamma: float | None = None
    final: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("gamma", self.gamma), ("final", self.final)):
            if value is not None:
                positive_fraction(name, value)

    @property
    def needs_total(self) -> bool:  # type: ignore[override]
        return self.gamma is None

    def shape(self, step: int) -> float:
        return float(self.gamma**step) if self.gamma is not None else float(self.final ** self._progress(step))


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (1 - final) (1 + cos(pi p)) / 2 at the share p of the run (Loshchilov and Hutter, 2017)."""

    name = "cosine"
    needs_total = True
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("final", self.final)

    def shape(self, step: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * self._progress(step)))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """final + (1 - final) (1 - p)^power at the share p of the run."""

    name = "polynomial"
    needs_total = True
    power: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("power", self.power)
        fraction("final", self.final)

    def shape(self, step: int) -> float:
        return float(self.final + (1 - self.final) * (1 - self._progress(step)) ** self.power)


SCHEDULES: dict[str, type[Schedule]] = {s.name: s for s in (Constant, Step, Exponential, Cosine, Polynomial)}


def get_schedule(schedule: str | Schedule | None, **options: Any) -> Schedule:
    """The schedule with that name (None: constant), made with `options`, or `schedule` itself.

    Raises ArgumentError for an unknown name or option.
    """
    if isinstance(schedule, Schedule):
        if options:
            raise ArgumentError(f"options {sorted(options)} are for a schedule by name; {schedule!r} is made already")
        return schedule
    return from_table("schedule", {**options, "name": "constant" if schedule is None else schedule}, SCHEDULES)
