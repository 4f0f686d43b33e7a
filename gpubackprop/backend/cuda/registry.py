"""Which activation, loss and optimizer has which kernel: the one table, by class.

A struct of activation.cu or loss.cu, or a rule of optimizer.cu, belongs to the class of the same name in this library. Any other
class has no entry, a subclass of such a class included, and so has an object whose constants are not the struct's; they run
in their array expressions.
"""

from __future__ import annotations

from types import ModuleType

from gpubackprop import activations, losses, optimizers
from gpubackprop.backend.cuda.kernel_table import Functor, functors, rules


def activation(f: activations.Activation) -> str | None:
    """The struct for an activation, or None."""
    functor = _functor(f, "activation.cu", activations)
    return None if functor is None else functor.name


def elementwise_loss(loss: losses.Loss) -> Functor | None:
    """The struct for a loss that is a sum over elements, or None; CrossEntropy, which is none, has a kernel of its own."""
    return _functor(loss, "loss.cu", losses)


def is_cross_entropy(loss: losses.Loss) -> bool:
    """Whether the kernel cross_entropy computes this loss."""
    return type(loss) is losses.CrossEntropy and loss.is_plain


def update_rule(optimizer: optimizers.Optimizer) -> tuple[str, tuple[float, float, float]] | None:
    """The rule for an optimizer as it is set, and its three constants; or None."""
    for rule in rules():
        if type(optimizer) is getattr(optimizers, rule.optimizer) and rule.states == optimizer.states:
            values = [getattr(optimizer, name) for name in rule.constants]
            numbers = [float(v) for value in values for v in (value if isinstance(value, tuple) else (value,))]
            first, second, third = (*numbers, 0.0, 0.0, 0.0)[:3]
            return rule.name, (first, second, third)
    return None


def _functor(thing: object, file: str, module: ModuleType) -> Functor | None:
    """The struct for an object of the module's class of the same name, where the object's constants are those of the struct, and
    nothing else was set on it."""
    functor = functors(file).get(type(thing).__name__)
    if functor is None or type(thing) is not getattr(module, functor.name):
        return None
    constants = functor.constants
    alike = set(vars(thing)) <= set(constants) and all(getattr(thing, name) == v for name, v in constants.items())
    return functor if alike else None
