"""Which activation, loss and optimizer has which kernel: the one table, by class.

A struct of activation.cu or loss.cu, or a rule of optimizer.cu, belongs to the class of the same name in this library. Any other
class has no entry, a subclass of such a class included, and so has an object whose constants are not the struct's; they run
in their array expressions.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from gpubackprop import activations, losses, optimizers
from gpubackprop.backend.base import ElementwiseFunction, LossFunction
from gpubackprop.backend.cuda.kernel_table import Functor, Rule, functors, rules


class ElementwiseLoss(NamedTuple):
    """The struct for elementwise_loss, and whether the loss is a mean over the outputs too."""

    functor: str
    over_outputs: bool


class KernelRule(NamedTuple):
    """The rule for optimizer_step, and its three constants."""

    name: str
    constants: tuple[float, float, float]


@cache
def activation_functors() -> dict[type, Functor]:
    """Class of activation -> struct of activation.cu."""
    return {getattr(activations, name): functor for name, functor in functors("activation.cu").items()}


@cache
def loss_functors() -> dict[type, Functor]:
    """Class of loss -> struct of loss.cu. CrossEntropy, whose terms are no sum over elements, has a kernel of its own."""
    return {getattr(losses, name): functor for name, functor in functors("loss.cu").items()}


@cache
def update_rules() -> dict[type, tuple[Rule, ...]]:
    """Class of optimizer -> its rules in optimizer.cu, one for each set of states that its settings may ask for."""
    owners = {rule.optimizer for rule in rules()}
    return {getattr(optimizers, name): tuple(r for r in rules() if r.optimizer == name) for name in owners}


def activation(f: ElementwiseFunction) -> str | None:
    """The struct for an activation, or None."""
    functor = activation_functors().get(type(f))
    return functor.name if functor is not None and _is_standard(f, functor) else None


def elementwise_loss(loss: LossFunction) -> ElementwiseLoss | None:
    """The struct for a loss that is a sum over elements, or None."""
    functor = loss_functors().get(type(loss))
    if functor is None or not _is_standard(loss, functor):
        return None
    return ElementwiseLoss(functor.name, functor.marks["over_outputs"])


def is_cross_entropy(loss: LossFunction) -> bool:
    """Whether the kernel cross_entropy computes this loss."""
    return type(loss) is losses.CrossEntropy and loss.is_plain


def update_rule(optimizer: optimizers.Optimizer) -> KernelRule | None:
    """The rule for an optimizer as it is set, or None."""
    for rule in update_rules().get(type(optimizer), ()):
        if rule.states == optimizer.states:
            values = [getattr(optimizer, name) for name in rule.constants]
            numbers = [float(v) for value in values for v in (value if isinstance(value, tuple) else (value,))]
            first, second, third = (*numbers, 0.0, 0.0, 0.0)[:3]
            return KernelRule(rule.name, (first, second, third))
    return None


def _is_standard(thing: object, functor: Functor) -> bool:
    """Whether this object's constants are those of the struct, and nothing else was set on it."""
    constants = functor.constants
    return set(vars(thing)) <= set(constants) and all(getattr(thing, name) == v for name, v in constants.items())
