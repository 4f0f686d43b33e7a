"""Bugs to plant: one expression of the library's source, what it is changed to, and the check that must notice."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Bug:
    """`where` ("losses:_Squared.value_and_delta") says `new` instead of `old`."""

    name: str
    where: str
    old: str
    new: str
    caught_by: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compile the method anew with the bug in it, and put it in the place of the right one."""
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(f"gpubackprop.{module_name}")
        *owners, method = path.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part)
        right = owner.__dict__[method]
        source = textwrap.dedent(inspect.getsource(right))
        assert source.count(self.old) == 1, f"{self.where} has {self.old!r} {source.count(self.old)} times, not once"
        # Within a function, so that super() finds its class.
        body = textwrap.indent(source.replace(self.old, self.new), "    ")
        names: dict[str, Any] = {}
        scope = {**vars(module)}
        exec(f"from __future__ import annotations\ndef plant(__class__):\n{body}\n    return {method}", scope, names)
        monkeypatch.setattr(owner, method, names["plant"](owner))


BUGS = [
    # -- losses
    Bug(
        "1/n dropped",
        "losses:_Squared.value_and_delta",
        "else rows)",
        "else 1)",
        "property: duplicated data has the same mean",
    ),
    Bug("sum over outputs for mean", "losses:_Squared.value_and_delta", "rows * a.shape[1]", "rows", "formulas"),
    Bug("1/2 of the squared error dropped", "losses:_Squared.value_and_delta", "self.factor /", "1.0 /", "formulas"),
    Bug("2 of the square's derivative dropped", "losses:_Squared.value_and_delta", "2 * scale", "scale", "gradients"),
    Bug("sign of the residual", "losses:_Squared.value_and_delta", "subtract(a, y", "subtract(y, a", "gradients"),
    Bug(
        "absolute error's delta not averaged",
        "losses:_Elementwise.value_and_delta",
        "xp.multiply(v.d, scale, out=delta)",
        "xp.copyto(delta, v.d)",
        "gradients",
    ),
    Bug(
        "binary cross-entropy without y z",
        "losses:BinaryCrossEntropy.terms",
        "xp.subtract(d, y, out=d)",
        "pass",
        "gradients",
    ),
    Bug(
        "sigmoid's derivative twice",
        "losses:BinaryCrossEntropy.slopes",
        "xp.divide(d, t, out=d)",
        "xp.divide(d, t, out=d); xp.multiply(d, d, out=d)",
        "gradients",
    ),
    Bug(
        "label taken from the next column",
        "losses:CrossEntropy._from_labels",
        "xp.add(v.index, plus, out=v.index)",
        "xp.add(v.index, plus, out=v.index); xp.add(v.index, n, out=v.index); "
        "xp.remainder(v.index, n * m, out=v.index)",
        "formulas",
    ),
    Bug("Huber's slope not cut", "losses:Huber.terms", "xp.minimum(v.d, self.delta, out=v.d)", "pass", "formulas"),
    Bug(
        "Poisson without y a",
        "losses:Poisson.terms",
        "xp.subtract(v.d, v.t, out=v.t)",
        "xp.copyto(v.t, v.d)",
        "formulas",
    ),
    Bug(
        "softmax without its 1",
        "losses:CrossEntropy._from_labels",
        "xp.subtract(picked, 1 / rows, out=picked)",
        "pass",
        "gradients",
    ),
    Bug(
        "cross-entropy averaged over classes",
        "losses:CrossEntropy._from_labels",
        "be.total(picked, 1 / rows, value)",
        "be.total(picked, 1 / (rows * a.shape[1]), value)",
        "gradients",
    ),
    Bug(
        "sign of the delta",
        "losses:CrossEntropy._from_probabilities",
        "xp.subtract(t, s, out=t)",
        "xp.subtract(s, t, out=t)",
        "gradients",
    ),
    Bug(
        "row maximum not taken out",
        "losses:CrossEntropy._from_labels",
        "xp.subtract(s, v.row, out=s)",
        "pass",
        "property: shifted logits are the same distribution",
    ),
    # -- activations
    Bug(
        "sigmoid for its derivative",
        "activations:Sigmoid.forward",
        "xp.divide(a, t, out=z)",
        "xp.copyto(z, a)",
        "gradients",
    ),
    Bug("sigmoid without its 1", "activations:Sigmoid.forward", "xp.add(a, 1.0", "xp.add(a, 2.0", "formulas"),
    Bug(
        "1 / cosh for its square",
        "activations:Tanh.forward",
        "xp.exp(z, out=z)",
        "xp.multiply(z, 0.5, out=z); xp.exp(z, out=z)",
        "gradients",
    ),
    Bug(
        "leaky ReLU with slope 0 below",
        "activations:LeakyReLU.times_derivative",
        "xp.add(t, self.slope, out=t)",
        "pass",
        "gradients",
    ),
    Bug(
        "SELU's derivative above 0",
        "activations:ELU.forward",
        "xp.multiply(z, u, out=z)",
        "pass",
        "gradients",
    ),
    Bug(
        "GELU without z phi(z)",
        "activations:GELU.forward",
        "xp.multiply(t, density, out=density)",
        "xp.multiply(density, 0.0, out=density)",
        "gradients",
    ),
    Bug("half of a normal tail", "activations:_normal_tail", "multiply(q, -0.5", "multiply(q, -0.4", "formulas"),
    Bug(
        "GELU's approximation with another constant",
        "activations:GELUTanh.forward",
        "2 * self.c * self.k,",
        "2 * self.c * 0.0447,",
        "formulas",
    ),
    Bug("SiLU's derivative without 1", "activations:SiLU.forward", "xp.add(t, 1.0, out=t)", "pass", "gradients"),
    Bug(
        "softplus's derivative for that of its negative",
        "activations:Softplus.forward",
        "xp.divide(t, u, out=z)",
        "xp.divide(1.0, u, out=z)",
        "gradients",
    ),
    # -- products
    Bug("transposed product", "backend.base:Backend.propagate", "W.T", "W", "gradients"),
    Bug(
        "derivative left out in propagate",
        "backend.base:Backend.propagate",
        "self.times_derivative(f, saved, out)",
        "pass",
        "gradients",
    ),
    Bug("bias missing", "backend.base:Backend.affine", "if b is not None:", "if False:", "gradients"),
    Bug(
        "bias missing in large products",
        "backend.cpu.numpy_backend:NumpyBackend.affine",
        "self.xp.copyto(z, b)",
        "self.xp.copyto(z, 0.0)",
        "parity",
    ),
    Bug(
        "mean for sum in db",
        "backend.base:Backend.affine_gradients",
        "            self.column_sums(delta, db)\n",
        "            self.column_sums(delta, db); self.xp.multiply(db, 1 / len(x), out=db)\n",
        "gradients",
    ),
    Bug(
        "x^T delta the other way round",
        "backend.base:Backend.affine_gradients",
        "        self.dot(x.T, delta, dW)\n",
        "        self.dot(delta.T, x, dW) if dW.shape[0] == dW.shape[1] else self.dot(x.T, delta, dW)\n",
        "gradients",
    ),
    Bug(
        "micro-batches overwrite",
        "backend.base:Backend._add_to",
        "self.xp.add(total, part, out=total)",
        "self.xp.copyto(total, part)",
        "contract",
    ),
    Bug(
        "beta taken twice",
        "backend.base:Backend._add_to",
        "if beta != 1:",
        "if beta:\n        beta = beta + 1",
        "contract",
    ),
    Bug(
        "last rows of an update block left out",
        "backend.base:Backend.update",
        "range(span.start, span.stop, self.update_block)",
        "range(span.start, span.stop - self.update_block, self.update_block)",
        "parity",
    ),
    Bug(
        "micro-batches overwrite in direct products",
        "backend.cpu.numpy_backend:NumpyBackend._dot_add",
        "gemv)(a, b, beta, out)",
        "gemv)(a, b, 0.0, out)",
        "property: micro batches add up to the batch",
    ),
    # -- steps
    Bug(
        "derivative of the wrong layer",
        "network.steps:Steps.backward",
        "batch.tensors[i - 1], self.layers[i - 1].activation",
        "batch.tensors[i - 1], self.layers[i].activation",
        "gradients",
    ),
    Bug(
        "derivative of the last layer left out",
        "network.steps:Steps.loss",
        "be.times_derivative(self.layers[-1].activation, last.saved, last.delta)",
        "pass",
        "gradients",
    ),
    Bug("derivative from a for z", "layers.dense:Dense.propagate", "below.saved", "below.a", "gradients"),
    Bug(
        "L2 penalty without its gradient",
        "backend.base:Backend.add_penalty_gradient",
        "if l2:",
        "if l2 < 0:",
        "gradients",
    ),
    Bug("L2 penalty without its half", "backend.base:Backend.add_penalty", "l2 / 2", "l2", "gradients"),
    Bug(
        "L1 penalty of the other sign",
        "backend.base:Backend.add_penalty_gradient",
        "xp.multiply(t, l1, out=t)",
        "xp.multiply(t, -l1, out=t)",
        "gradients",
    ),
    Bug("penalty on biases", "network.steps:Steps.penalty", "elif W.ndim > 1:", "else:", "formulas"),
    Bug(
        "mean of a part's own rows",
        "network.engine:Engine._in_parts",
        "steps.set_share(mass / whole)",
        "steps.set_share(1.0)",
        "property: micro batches add up to the batch",
    ),
    Bug(
        "masks of a part drawn from the first row on",
        "network.workspace:_begin_at",
        "v.first_row = row",
        "v.first_row = 0",
        "dropout",
    ),
    Bug("steps not counted", "network.steps:Steps.count", "if self.random:", "if False:", "dropout"),
    # -- layers
    Bug(
        "dropout not scaled",
        "random:MaskStream.draw",
        "np.multiply(part, scale, out=part)",
        "pass",
        "dropout",
    ),
    Bug(
        "dropout's mask left out of the gradient",
        "layers.dropout:Dropout.backward",
        "be.xp.multiply(v.delta, v.mask, out=dx)",
        "be.xp.copyto(dx, v.delta)",
        "gradients",
    ),
    Bug("dropout in prediction", "layers.dropout:Dropout.forward", "if training:", "if True:", "dropout"),
    Bug(
        "mean's share of the derivative left out",
        "backend.base:Backend._without_means",
        "xp.subtract(g, mean, out=out)",
        "xp.copyto(out, g)",
        "gradients",
    ),
    Bug(
        "variance's share of the derivative left out",
        "backend.base:Backend._without_means",
        "xp.subtract(g, t, out=out)",
        "xp.copyto(out, g)",
        "gradients",
    ),
    Bug(
        "gain's gradient from x for xhat",
        "layers.normalization:_Norm.gradients_into",
        "be.scale_gradients(v.delta, v.xhat, v.sums)",
        "be.scale_gradients(v.delta, v.x, v.sums)",
        "gradients",
    ),
    Bug(
        "gradients of a normalisation overwritten",
        "layers.normalization:_Norm._take_sums",
        "if beta:",
        "if False:",
        "contract",
    ),
    Bug(
        "a block's input left out of its derivative",
        "layers.residual:Residual.backward",
        "be.xp.add(dx, v.delta, out=dx)",
        "pass",
        "contract",
    ),
    Bug(
        "f' left out at the end of a block",
        "layers.residual:Residual.begin_backward",
        "be.times_derivative(self.layers[-1].activation, last.saved, last.delta)",
        "pass",
        "contract",
    ),
    Bug(
        "a block inside a block passed by",
        "layers.residual:Residual.begin_backward",
        "layer.begin_backward(be, inner, training)",
        "pass",
        "contract",
    ),
    Bug("biased running variance", "layers.normalization:BatchNorm.forward", "n / max(n - 1, 1)", "1.0", "formulas"),
    Bug(
        "running statistics take the batch's share",
        "layers.normalization:BatchNorm.forward",
        "be.xp.multiply(running, 1 - self.momentum, out=running)",
        "be.xp.multiply(running, self.momentum, out=running)",
        "formulas",
    ),
    Bug(
        "statistics through the gradient in prediction",
        "layers.normalization:BatchNorm.backward",
        "if not training:",
        "if False:",
        "gradients",
    ),
    Bug(
        "a layer scales its input in place",
        "layers.normalization:_Norm.forward",
        "v.xhat, gamma, beta, v.a)",
        "v.xhat, gamma, beta, v.a); be.xp.multiply(v.x, 1.5, out=v.x)",
        "contract",
    ),
    # -- networks, buffers
    Bug(
        "stale x",
        "network.engine:Engine.load",
        "self.backend.copy_in(x, batch.x)",
        "None if getattr(batch, 'loaded', False) else self.backend.copy_in(x, batch.x); batch.loaded = True",
        "gradients",
    ),
    Bug(
        "stale targets",
        "network.rows:Rows.load",
        "self.be.gather_rows(source, index, out)",
        "self.be.gather_rows(source, index if out is x else self._order[: len(x)], out)",
        "training",
    ),
    Bug(
        "a smaller batch reaches into the rows before it",
        "network.workspace:_Memory.view",
        "self.flat[key][: prod(view)]",
        "self.flat[key][self.flat[key].size - prod(view) :][::-1]",
        "contract",
    ),
    Bug(
        "a loss that changes after it was handed out",
        "network.workspace:Losses.next",
        "return slot",
        "return self._value",
        "training",
    ),
    Bug(
        "arrays that overlap in the flat buffer",
        "network.parameters:Parameters.__init__",
        "end += -(-prod(shape) // aligned) * aligned",
        "end += max(prod(shape) // aligned, 1) * aligned",
        "gradients",
    ),
    Bug(
        "gradient of the input left out of the first layer's activation",
        "network.steps:Steps.backward",
        "batch.input_tensors(), _IDENTITY",
        "batch.input_tensors(), self.layers[0].activation",
        "gradients",
    ),
    Bug(
        "one momentum for all networks",
        "optimizers.base:Optimizer.bind",
        "self.state = {name: be.zeros(P.shape, P.dtype) for name in self.states}",
        "self.state = vars(Optimizer).get('_shared', {}); setattr(Optimizer, '_shared', self.state); "
        "[self.state.setdefault(k, be.zeros(P.shape, P.dtype)) for k in self.states]",
        "training",
    ),
    Bug(
        "last batch of an epoch left out",
        "training.trainer:Trainer._epoch",
        "steps, begun = fit.steps, fit.step",
        "steps, begun = source.n // fit.size, fit.step",
        "training",
    ),
    Bug(
        "last batch of an epoch one row short",
        "network.engine:Engine.train",
        "min(size, source.n - step * size)",
        "min(size, source.n - step * size - 1)",
        "training",
    ),
    Bug(
        "epoch's loss divided by its steps",
        "training.trainer:Trainer._epoch",
        "loss = total / counted if counted else nan",
        "loss = total / (until * fit.size)",
        "training",
    ),
    Bug(
        "targets in another order than x",
        "network.rows:Rows.load",
        "self.be.gather_rows(source, index, out)",
        "self.be.gather_rows(source, index[::-1] if out is y else index, out)",
        "training",
    ),
    # -- optimizers
    Bug("weights go up", "optimizers.sgd:SGD.rule", "xp.subtract(p, g, out=p)", "xp.add(p, g, out=p)", "gradients"),
    Bug(
        "momentum that damps the gradient",
        "optimizers.sgd:SGD.rule",
        "xp.add(step, g, out=step)",
        "xp.multiply(g, 1 - self.momentum, out=g); xp.add(step, g, out=step)",
        "training",
    ),
    Bug("direct momentum without its factor", "optimizers.sgd:SGD.accumulator", "self.momentum\n", "1.0\n", "parity"),
    Bug(
        "Nesterov without the gradient itself",
        "optimizers.sgd:SGD.rule",
        "xp.add(g, t, out=g)",
        "xp.copyto(g, t)",
        "pytorch: sgd nesterov",
    ),
    Bug("Adam without bias correction", "optimizers.moments:Adam.scalars", "lr / c1", "lr", "pytorch: adam"),
    Bug(
        "epsilon inside the bias correction",
        "optimizers.moments:Adam.rule",
        "xp.multiply(h[1], self.eps, out=eps)",
        "xp.copyto(eps, self.eps)",
        "pytorch: adam decay",
    ),
    Bug(
        "betas swapped",
        "optimizers.moments:_Moments._update_moments",
        "be.decaying_average(v, self.betas[1], t, t)",
        "be.decaying_average(v, self.betas[0], t, t)",
        "pytorch: adam decay",
    ),
    Bug(
        "steps counted from 0",
        "optimizers.base:Optimizer.prepare",
        "self._all_scalars(self.t + 1)",
        "self._all_scalars(max(self.t, 1))",
        "training",
    ),
    Bug("AdamW with coupled decay", "optimizers.moments:AdamW.__init__", "True", "False", "pytorch: adamw decay"),
    Bug(
        "decay forgotten", "optimizers.base:Optimizer.add_decay", "be.xp.add(g, t, out=g)", "pass", "pytorch: sgd decay"
    ),
    Bug(
        "epsilon under the root",
        "optimizers.adaptive:RMSprop.rule",
        "        xp.sqrt(s, out=t)\n",
        "        xp.add(s, self.eps, out=t)\n        xp.sqrt(t, out=t)\n",
        "pytorch: rmsprop",
    ),
    Bug(
        "centered without the square",
        "optimizers.adaptive:RMSprop.rule",
        "xp.multiply(state[-1], state[-1], out=t)",
        "xp.copyto(t, state[-1])",
        "pytorch: rmsprop centered",
    ),
    Bug(
        "learning-rate decay from step 1 on",
        "optimizers.adaptive:Adagrad.scalars",
        "(t - 1)",
        "t",
        "pytorch: adagrad decay",
    ),
    Bug(
        "Adadelta's average of g for that of d",
        "optimizers.adaptive:Adadelta.rule",
        "be.decaying_average(u, self.rho, t, t)",
        "xp.copyto(u, s)",
        "pytorch: adadelta",
    ),
    Bug(
        "Adamax with a sum for a maximum",
        "optimizers.moments:Adamax.rule",
        "xp.maximum(u, t, out=u)",
        "xp.add(u, t, out=u)",
        "pytorch: adamax",
    ),
    Bug(
        "NAdam with this step's momentum for the next",
        "optimizers.moments:NAdam.scalars",
        "self._mu(t + 1)",
        "self._mu(t)",
        "pytorch: nadam",
    ),
    Bug(
        "RAdam rectified from the start",
        "optimizers.moments:RAdam.scalars",
        "rho <= 5",
        "rho <= 4",
        "pytorch: radam decay",
    ),
    Bug(
        "short gradients made longer",
        "backend.base:Backend.clip_by_norm",
        "xp.minimum(factor, 1.0, out=factor)",
        "pass",
        "clipping",
    ),
    Bug(
        "LARS scaled by |g| / |w|",
        "optimizers.layerwise:LARS.segment_rule",
        "self._ratio(be, w, u)",
        "self._ratio(be, u, w); xp.copyto(w, u)",
        "paper: lars",
    ),
    Bug(
        "LAMB's decay outside the ratio",
        "optimizers.layerwise:LAMB.segment_rule",
        "be.norm(g, u)",
        "xp.subtract(g, t, out=g) if self.weight_decay else None; be.norm(g, u)",
        "paper: lamb decay",
    ),
]
