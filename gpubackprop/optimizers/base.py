"""The base class of optimizers: their settings, their state, weight decay, clipping, and how one step is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NoReturn, TypedDict

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import not_negative, positive
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, unknown_name
from gpubackprop.network.parameters import Parameters
from gpubackprop.optimizers.schedules import Constant, Schedule, get_schedule


class Common(TypedDict, total=False):
    """The settings that all optimizers have beside the learning rate; `Optimizer` says what they mean."""

    schedule: str | Schedule | None
    weight_decay: float
    decoupled_weight_decay: bool
    decay: str
    groups: Sequence[Mapping[str, Any]]
    clip_norm: float | None
    clip_value: float | None


class Optimizer:
    """A rule for one step of descent, with its state.

    learning_rate: eta > 0. schedule: a name or a `Schedule` whose factor multiplies it at each step.
    weight_decay: lambda >= 0; added to the gradient as lambda p (an L2 penalty), or, with decoupled_weight_decay, taken
    off the parameters as p <- (1 - eta lambda) p (Loshchilov and Hutter, 2019).
    decay: what that applies to: "all" parameters, as in PyTorch, or "weights", which are the matrices (as for `l2=` of a
    network), and neither biases nor what scales units.
    groups: parameters with numbers of their own, [{"parameters": "0.*", "learning_rate_factor": 0.1, "weight_decay": 0.0}, ...]:
    names ("<layer index>.<name>") or patterns of them as in `fnmatch`, one or a list; the first group that has a name counts.
    learning_rate_factor multiplies the learning rate; "trainable": False keeps them as they are, as `layer.trainable = False`
    does for all of a layer.
    clip_value: gradients are cut to [-clip_value, clip_value]. clip_norm: then the gradient of all parameters together
    is scaled down to this Euclidean norm where it is longer (Pascanu et al., 2013); neither waits for the device.

    One optimizer trains one network. Raises ArgumentError for a setting that is out of range.

    A user-defined rule derives from this class, names its `states`, and defines `scalars` and `rule`.
    """

    states: ClassVar[tuple[str, ...]] = ()
    """The names of its state arrays, each of the parameters' size."""
    workspace: ClassVar[tuple[str, ...]] = ()
    """The names of further attributes that hold device arrays without a state worth keeping."""
    elementwise: ClassVar[bool] = True
    """Whether `rule` treats each element by itself, and may be called for any parts of the flat buffers."""
    asks_of: ClassVar[bool] = False
    """Whether a `rule` that is not elementwise, and gets the flat buffers whole, asks `of` for each parameter whether it is
    trained and with what numbers."""

    def __init__(
        self,
        learning_rate: float,
        *,
        schedule: str | Schedule | None = None,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        decay: str = "all",
        groups: Sequence[Mapping[str, Any]] = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.schedule = get_schedule(schedule)
        self.weight_decay = not_negative("weight_decay", weight_decay)
        self.decoupled_weight_decay = bool(decoupled_weight_decay)
        if decay not in ("all", "weights"):
            raise ArgumentError(f'decay must be "all" or "weights"; got {decay!r}')
        self.decay = decay
        self.groups = tuple(_checked_group(i, group) for i, group in enumerate(groups))
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else positive("clip_value", clip_value)
        self.t = 0
        """Number of steps done."""
        self.track_norm = False
        """Whether a step writes the gradient's norm into `norm`: before all clipping, or, with a clip_norm, after clip_value."""
        self.parameters: Parameters | None = None
        self.state: dict[str, Array] = {}
        self.h: tuple[Array, ...] = ()
        self.norm: Array = None
        self._saved: dict[str, np.ndarray] | None = None
        """State of a copy that trains nothing yet."""
        self._span: tuple[int, int] | None = None
        self._scaling = 1.0, 0
        """What the steps of `_span` multiply the learning rate by, and over how many it rises to that."""
        self._spread: tuple[Schedule, Schedule] | None = None
        self._rate = 1.0
        """The factor of the learning rate, in a member of `groups`."""
        self.members: list[Optimizer] = []
        """This rule with the numbers of each of `groups`."""
        self._spans: tuple[frozenset[str], list[tuple[Optimizer | None, slice, bool]]] | None = None
        """The last result of `spans` and its frozen names; None stands for this rule itself, to avoid a reference cycle."""

    @property
    def learning_rate(self) -> float:
        """eta before the schedule; it may be changed between steps."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = positive("learning_rate", value)

    def __setattr__(self, name: str, value: object) -> None:
        # All else that the constructor was given is part of the recorded step, where a later change would be ignored.
        fixed = self.__dict__.get("_fixed", {})
        if name in fixed and value != fixed[name]:
            raise ArgumentError(
                f"{name} of this {type(self).__name__} was {fixed[name]!r} when training began, and is part of the recorded "
                "step; only learning_rate and schedule can change: make a new optimizer"
            )
        super().__setattr__(name, value)

    # -- what a rule defines --------------------------------------------------------------------------------------

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        """The numbers that the rule needs at step t = 1, 2, ... with learning rate lr, computed in float64."""
        return (lr,)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        """Update p and the state in place from the gradient g; h: `scalars` as 0-d arrays; g may be used up."""
        raise NotImplementedError(f"{type(self).__name__} must define rule(be, p, g, state, h)")

    # -- one step -------------------------------------------------------------------------------------------------

    def bind(self, parameters: Parameters) -> None:
        """Make the state for these parameters, if it is not there; bring it along if the network changed its device.

        Raises ArgumentError if it belongs to another network.
        """
        if self.parameters is parameters:
            return
        saved = self._saved
        if self.parameters is not None and self.parameters.owner is parameters.owner is not None:
            saved = self.get_state()
        elif self.parameters is not None:
            raise ArgumentError(
                f"this {type(self).__name__} already trains another network, and its state belongs to that one; "
                "make a new optimizer for this network"
            )
        self.parameters = parameters
        self._fixed = {k: v for k, v in self.settings().items() if k not in ("learning_rate", "schedule")}
        be, P = parameters.backend, parameters.P
        self.state = {name: be.zeros(P.shape, P.dtype) for name in self.states}
        self._written: tuple[float, ...] | None = None
        self._settled: tuple[Schedule, float] | None = None
        self._spans = None
        self.h = be.scalars(self._count(), P.dtype)
        self.norm = be.zeros((), P.dtype)
        self._factor = be.zeros((), P.dtype)
        self.members = [self._member(group) for group in self.groups]
        if saved is not None:
            self._saved = None
            self.set_state(saved)

    def _count(self) -> int:
        return len(self.scalars(self.learning_rate, 1)) + bool(self.weight_decay and self.decoupled_weight_decay)

    def _member(self, group: dict[str, Any]) -> Optimizer:
        """This rule, on the same state, with a group's numbers."""
        assert self.parameters is not None
        names = [s.name for s in self.parameters.segments]
        if not any(fnmatchcase(name, pattern) for name in names for pattern in group["parameters"]):
            raise ArgumentError(f"groups: no parameter is called {group['parameters']}; there are {', '.join(names)}")
        member: Optimizer = object.__new__(type(self))
        member.__dict__.update(vars(self), _rate=group.get("learning_rate_factor", 1.0), members=[], groups=())
        member.__dict__["weight_decay"] = group.get("weight_decay", self.weight_decay)
        member.__dict__["h"] = self.parameters.backend.scalars(member._count(), self.parameters.dtype)
        return member

    def of(self, name: str) -> Optimizer | None:
        """The rule for a parameter: this one, the member of its group, or None where it is not trained."""
        assert self.parameters is not None
        if name in self.parameters.frozen:
            return None
        for group, member in zip(self.groups, self.members, strict=True):
            if any(fnmatchcase(name, pattern) for pattern in group["parameters"]):
                return member if group.get("trainable", True) else None
        return self

    @property
    def is_split(self) -> bool:
        """Whether some parameters have other numbers than the others, or are not trained."""
        return bool(self.groups) or bool(self.parameters and self.parameters.frozen)

    def spans(self) -> list[tuple[Optimizer, slice, bool]]:
        """Stretches of the flat buffers, gaps included: the rule for each, and whether its weight decay applies there."""
        assert self.parameters is not None
        if self._spans is None or self._spans[0] is not self.parameters.frozen:
            segments = self.parameters.segments
            found: list[tuple[Optimizer | None, slice, bool]] = []
            for s, end in zip(segments, [*(s.start for s in segments[1:]), self.parameters.P.size], strict=True):
                rule = self.of(s.name)
                if rule is not None:
                    decays, start = not rule.weight_decay or rule.decays(s.is_weight), s.start
                    member = None if rule is self else rule
                    if found and found[-1][0] is member and found[-1][2] == decays and found[-1][1].stop == start:
                        start = found.pop()[1].start
                    found.append((member, slice(start, end), decays))
            self.__dict__["_spans"] = self.parameters.frozen, found
        assert self._spans is not None
        return [(member or self, span, decays) for member, span, decays in self._spans[1]]

    def span(self, start: int, total: int, scale: float = 1.0, warmup: int = 0) -> None:
        """Say that steps `start` to `start + total` are one run: what a schedule that needs the length of the run, and does not
        state it, spreads over. The schedule itself stays as it was set. scale: what the learning rate of these steps is
        multiplied by; warmup: the first of them, over which it rises linearly from 0."""
        self._span, self._scaling = (start, total), (scale, warmup)
        self._spread = self._settled = None

    def put_off(self) -> None:
        """Say that the next step is none of the run of `span`, within which it is: its rate is that of the step before."""
        if self._span is not None and self._span[0] < self.t:
            self._span = self._span[0] + 1, self._span[1]

    def end_run(self) -> None:
        """Say that the run of `span` is over, wherever it is: what holds for it holds no longer."""
        if self._span is not None and self._span[0] < self.t < sum(self._span):
            self._span = self._span[0], self.t - self._span[0]
            self._settled = None

    def factor(self, step: int) -> float:
        """The schedule's factor of the learning rate at a step, counted from 0.

        Raises ArgumentError for a schedule that needs the length of a run where there is none, or where it is over.
        """
        return self._scale(step) * self._scheduled(step)

    def _scale(self, step: int) -> float:
        (scale, warmup), (start, total) = self._scaling, self._span or (0, 0)
        if not start <= step < start + total:
            return 1.0
        return scale * min(1.0, (step - start + 1) / (warmup + 1))

    def _scheduled(self, step: int) -> float:
        schedule = self.schedule
        if schedule.total is not None or not schedule.needs_total or self._span is None:
            return schedule(step)
        start, total = self._span
        if not start <= step < start + total:
            raise ArgumentError(
                f"the {schedule.name} schedule was spread over the {total} steps of a run, which is over; give it total=, the "
                "number of steps of all training, to go on step by step"
            )
        if self._spread is None or self._spread[0] is not schedule:
            self._spread = schedule, schedule.over(total)
        return self._spread[1](step - start)

    def go_back_to(self, t: int) -> None:
        """After t steps again: a step that was prepared has not taken place."""
        self.t = t
        self._written = None
        self._settled = None

    def prepare(self) -> None:
        """Count the step and hand its scalars to the device. On the host, before the step is run.

        Raises what `factor` raises, and has counted nothing then.
        """
        if not self._is_settled():
            assert self.parameters is not None
            be = self.parameters.backend
            values = self._all_scalars(self.t + 1)
            if values != self._written:
                be.write_scalars(self.h, values)
                self._written = values
                for member in self.members:
                    be.write_scalars(member.h, self._all_scalars(self.t + 1, member))
            self._settle(values)
        # Past __setattr__, which would cost a small step 2 of its 100 parts.
        self.__dict__["t"] += 1

    def prepare_many(self, steps: int, dtype: DTypeLike | None = None) -> np.ndarray:
        """Count steps that are done without `prepare`, and return the scalars of each, (steps, count), in the parameters' type or
        another; all of them or none."""
        assert self.parameters is not None
        numbers, done = np.empty((steps, len(self.h)), self.parameters.dtype if dtype is None else dtype), self.t
        try:
            for i in range(steps):
                if self._is_settled():
                    numbers[i:] = self.learning_rate
                    self.t += steps - i
                    break
                values = self._all_scalars(self.t + 1)
                numbers[i] = values
                self.t += 1
                self._settle(values)
        except BaseException:
            self.go_back_to(done)
            raise
        # What a device does by itself may leave anything in `h`.
        self._written = self._settled = None
        return numbers

    def _is_settled(self) -> bool:
        settled = self._settled
        return settled is not None and settled[0] is self.schedule and settled[1] == self.learning_rate

    def _settle(self, values: tuple[float, ...]) -> None:
        # Where eta is the only number and no schedule changes it, it is written once.
        constant = type(self.schedule) is Constant and not self.schedule.warmup and self._scaling == (1.0, 0)
        if constant and values == (self.learning_rate,) and type(self).scalars is Optimizer.scalars:
            self._settled = self.schedule, self.learning_rate

    def current_learning_rate(self) -> float:
        """The learning rate of the step that was prepared last (of the first one of a run, before that)."""
        first = 0 if self._span is None else max(self._span[0], 0)
        return self.learning_rate * self.factor(max(self.t - 1, first))

    def apply(self, be: Backend) -> None:
        """Clip and update. This is the part of a step that can be recorded."""
        assert self.parameters is not None
        P, G = self.parameters.P, self.parameters.G
        if self.is_split and (self.track_norm or self.clip_norm is not None):
            for s in self.parameters.segments:
                if self.of(s.name) is None:
                    be.fill(s.of(G), 0.0)
        if self.track_norm and self.clip_norm is None:
            be.norm(G, self.norm)
        if self.clip_value is not None:
            be.xp.clip(G, -self.clip_value, self.clip_value, out=G)
        if self.clip_norm is not None:
            be.clip_by_norm(G, self.clip_norm, self.norm, self._factor)
        self.update(be, P, G)

    def accumulator(self) -> tuple[Array, float] | None:
        """(v, mu) where the step begins with v <- mu v + g, of the bare gradient g: a product may then add to mu v itself, and
        `descend` is all that is left. None for every other rule."""
        return None

    def descend(self, be: Backend) -> None:
        """The rest of the step for a rule that has an `accumulator`, which holds its new value."""
        raise NotImplementedError(f"{type(self).__name__} has an accumulator and must define descend(be)")

    def update(self, be: Backend, P: Array, G: Array) -> None:
        """Apply the rule to the flat buffers. Raises ArgumentError where the rule would pass over what is not trained, or over
        groups."""
        if not (self.elementwise or self.asks_of) and (self.is_split or (self.weight_decay and self.decay != "all")):
            raise ArgumentError(
                f"the rule of {type(self).__name__} gets all parameters at once (elementwise = False), and would treat frozen "
                'layers, groups and decay="weights" as all others: ask self.of(name) in it, and say asks_of = True'
            )
        be.update(self, P, G, tuple(self.state.values()), self.h)

    def decays(self, is_weight: bool) -> bool:
        """Whether the weight decay applies to an array, which is a weight or not."""
        return bool(self.weight_decay) and (is_weight or self.decay == "all")

    def add_decay(self, be: Backend, p: Array, g: Array, h: tuple[Array, ...], is_weight: bool = False) -> None:
        """The weight decay, coupled or not; `h[-1]` is 1 - eta lambda where it is decoupled.

        is_weight: whether p is known to be a weight; of parts of the flat buffers nothing is known.
        """
        if not self.decays(is_weight):
            return
        if self.decoupled_weight_decay:
            be.xp.multiply(p, h[-1], out=p)
        else:
            t = be.scratch(p)
            be.xp.multiply(p, self.weight_decay, out=t)
            be.xp.add(g, t, out=g)

    def _all_scalars(self, t: int, member: Optimizer | None = None) -> tuple[float, ...]:
        rule = member or self
        lr = self.learning_rate * rule._rate * self.factor(t - 1)
        own = rule.scalars(lr, t)
        if rule.weight_decay and rule.decoupled_weight_decay:
            return (*own, 1 - lr * rule.weight_decay)
        return own

    # -- settings and state ---------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values; the schedule as {"name": ..., its fields}."""
        skip = {"t", "track_norm", "parameters", "state", "h", "norm", "schedule", "members"}
        own = {k: v for k, v in vars(self).items() if k not in skip and not k.startswith("_")}
        return {
            "learning_rate": self.learning_rate,
            **own,
            "schedule": {"name": self.schedule.name, **vars(self.schedule)},
        }

    def get_state(self) -> dict[str, np.ndarray]:
        """Host copies of the state: {"t": int64 (), "<state>": flat array}."""
        if self.parameters is None:
            return {"t": np.asarray(self.t, np.int64)} if self._saved is None else dict(self._saved)
        with self.parameters.backend as be:
            own = {k: be.to_host(v) for k, v in self.state.items()}
            return {"t": np.asarray(self.t, np.int64), **own, **be.scale_state()}

    def set_state(self, saved: dict[str, np.ndarray]) -> None:
        """Put back what `get_state` gave; the optimizer must be bound.

        Raises CheckpointError, with nothing changed, if it does not fit.
        """
        assert self.parameters is not None
        for name, shape in {"t": (), **{k: v.shape for k, v in self.state.items()}}.items():
            if name not in saved or saved[name].shape != shape:
                came = saved[name].shape if name in saved else "nothing"
                raise CheckpointError(
                    f"optimizer state {name!r} of {type(self).__name__}: expected shape {shape}, got {came}"
                )
        for name, array in self.state.items():
            self.parameters.backend.copy_in(saved[name], array)
        self.parameters.backend.set_scale_state(saved)
        self.t = int(saved["t"])
        self._written = self._settled = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings, and the state on the host; it belongs to the first network that it trains."""
        gone = {
            "parameters",
            "state",
            "h",
            "norm",
            "_factor",
            "_written",
            "_settled",
            "_fixed",
            "_spread",
            "_spans",
            "members",
            *self.workspace,
        }
        state = self.get_state()
        kept = {k: v for k, v in vars(self).items() if k not in gone}
        return {**kept, "t": int(state["t"]), "_saved": state if len(state) > 1 or state["t"] else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, parameters=None, state={}, h=(), norm=None, _spread=None, _spans=None, members=[])

    def __repr__(self) -> str:
        shown = {
            k: v
            for k, v in self.settings().items()
            if k not in ("learning_rate", "schedule") and v not in (None, False, ()) and (k, v) != ("decay", "all")
        }
        rest = "".join(f", {k}={v!r}" for k, v in shown.items())
        schedule = (
            "" if self.schedule.name == "constant" and not self.schedule.warmup else f", schedule={self.schedule}"
        )
        return f"{type(self).__name__}({self.learning_rate!r}{rest}{schedule})"


_OF_A_GROUP = ("parameters", "learning_rate_factor", "weight_decay", "trainable")


class _Group(dict[str, Any]):
    """A group of parameters: a dict that stays as it is."""

    def _refuse(self, *arguments: object, **options: object) -> NoReturn:
        # What an optimizer that trains has of its groups would not change, and a saved file would say that it had.
        raise ArgumentError("the groups of an optimizer cannot be changed: make a new optimizer, with groups=[...]")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def _checked_group(index: int, group: Mapping[str, Any]) -> _Group:
    """A group of parameters as plain values. Raises ArgumentError or ArgumentTypeError for one that is none."""
    name = f"groups[{index}]"
    if not isinstance(group, Mapping):
        raise ArgumentTypeError(
            f'{name} must be a dict such as {{"parameters": "0.*", "weight_decay": 0}}; got {group!r}'
        )
    for key in group:
        if key not in _OF_A_GROUP:
            raise unknown_name(f"setting of {name}", key, _OF_A_GROUP)
    patterns = group.get("parameters")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ArgumentTypeError(f"{name}: parameters must be a name, a pattern or a list of them; got {patterns!r}")
    found: dict[str, Any] = {"parameters": tuple(patterns)}
    if "learning_rate_factor" in group:
        found["learning_rate_factor"] = positive(f"{name}: learning_rate_factor", group["learning_rate_factor"])
    if "weight_decay" in group:
        found["weight_decay"] = not_negative(f"{name}: weight_decay", group["weight_decay"])
    if "trainable" in group:
        found["trainable"] = bool(group["trainable"])
    return _Group(found)
