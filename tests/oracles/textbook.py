"""Networks, their training and their optimizers as a textbook writes them: float64 NumPy, a formula a line.

Nothing lives on from call to call but weights, moments and counts. Rows are samples; weights have the library's names,
"<layer>.<name>". Only random bits (dropout's, and the order of an epoch) come from the library.
"""

from __future__ import annotations

from math import cos, pi, sqrt

import numpy as np

from gpubackprop.random import host_generator
from tests.words import random_words


class RefusedError(Exception):
    """What has no answer: the library must refuse it too."""


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


ACTIVATIONS = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "softplus": (lambda z: np.logaddexp(0, z), sigmoid),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
}
"""name -> f(z), f'(z)."""


def cross_entropy(z, y):
    y = np.eye(z.shape[1])[y] if y.ndim == 1 else y
    log_p = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    return -np.sum(y * log_p) / len(z), (np.exp(log_p) * y.sum(axis=1, keepdims=True) - y) / len(z)


def huber(d):
    return np.where(abs(d) <= 1, d**2 / 2, abs(d) - 1 / 2)


LOSSES = {
    "half_squared_error": lambda a, y: (np.sum((a - y) ** 2) / 2 / len(a), (a - y) / len(a)),
    "mean_squared_error": lambda a, y: (np.mean((a - y) ** 2), 2 * (a - y) / a.size),
    "mean_absolute_error": lambda a, y: (np.mean(abs(a - y)), np.sign(a - y) / a.size),
    "huber": lambda a, y: (np.mean(huber(a - y)), np.clip(a - y, -1, 1) / a.size),
    "poisson": lambda a, y: (np.mean(np.exp(a) - y * a), (np.exp(a) - y) / a.size),
    "binary_cross_entropy": lambda z, y: (np.mean(np.logaddexp(0, z) - y * z), (sigmoid(z) - y) / z.size),
    "cross_entropy": cross_entropy,
}
"""name -> C, dC/da for outputs (or logits) and targets."""


def parts(n, size):
    """The rows 0 .. n-1 in turns of `size`, of which the last may be smaller."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


class Network:
    """layers: [("Dense", {"activation": "tanh"}), ("Dropout", {"p": 0.5}), ...]; weights: every array by its name."""

    def __init__(self, layers, loss, weights, seed=0, l1=0.0, l2=0.0):
        self.layers, self.loss_name, self.weights = layers, loss, dict(weights)
        self.seed, self.l1, self.l2 = seed, l1, l2
        self.masks = self.epochs = 0  # draws of dropout masks, and orders of the rows, that are used up
        self.records = []

    def check_rows(self, *counts):
        if 1 in counts and any(kind == "BatchNorm" for kind, _ in self.layers):
            raise RefusedError("the variance of one row")

    def forward(self, x, training=False, first_row=0):
        """The outputs, and what the derivatives are written from. The rows begin at `first_row` of their batch."""
        self.check_rows(len(x) if training else 0)
        w, kept = self.weights, []
        for i, (kind, s) in enumerate(self.layers):
            if kind in ("Dense", "Activation"):
                z = x @ w[f"{i}.weight"] + w.get(f"{i}.bias", 0.0) if kind == "Dense" else x
                kept.append((x, z))
                x = ACTIVATIONS[s.get("activation") or "identity"][0](z)
            elif kind == "Dropout":
                words = random_words(x.size, seed=self.seed, step=self.masks, layer=i, first=first_row * x.shape[1])
                mask = (words < round((1 - s["p"]) * 2**16)).reshape(x.shape) / (1 - s["p"])
                kept.append(mask if training else 1.0)
                x = x * kept[-1]
            else:
                axis = 0 if kind == "BatchNorm" else 1
                mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
                if kind == "BatchNorm" and training:
                    for name, batch in (("running_mean", x.mean(0)), ("running_var", x.var(0, ddof=1))):
                        w[f"{i}.{name}"] = (1 - s["momentum"]) * w[f"{i}.{name}"] + s["momentum"] * batch
                elif kind == "BatchNorm":
                    mean, var, axis = w[f"{i}.running_mean"], w[f"{i}.running_var"], None
                sigma = np.sqrt(var + s["eps"])
                kept.append(((x - mean) / sigma, sigma, axis))
                x = kept[-1][0] * w[f"{i}.gamma"] + w[f"{i}.beta"]
        return x, kept

    def backward(self, delta, kept):
        """{name: dC/dname}, from delta = dC/da of the last layer."""
        w, gradients = self.weights, {}
        for i, (kind, s) in reversed(list(enumerate(self.layers))):
            if kind in ("Dense", "Activation"):
                x, z = kept[i]
                delta = delta * ACTIVATIONS[s.get("activation") or "identity"][1](z)
            if kind == "Dense":
                gradients |= {f"{i}.weight": x.T @ delta, f"{i}.bias": delta.sum(axis=0)}
                delta = delta @ w[f"{i}.weight"].T
            elif kind == "Dropout":
                delta = delta * kept[i]
            elif kind != "Activation":
                xhat, sigma, axis = kept[i]
                gradients |= {f"{i}.gamma": (delta * xhat).sum(axis=0), f"{i}.beta": delta.sum(axis=0)}
                delta = delta * w[f"{i}.gamma"]
                if axis is not None:  # the statistics depend on x
                    delta = delta - delta.mean(axis, keepdims=True) - xhat * (delta * xhat).mean(axis, keepdims=True)
                delta = delta / sigma
        return {name: g for name, g in gradients.items() if name in w}

    def loss_and_gradients(self, x, y, training=False, size=None):
        """C and its gradients, means over all rows, which pass through `size` at a time."""
        matrices = {name: w for name, w in self.weights.items() if w.ndim == 2}
        C = sum(self.l1 * abs(w).sum() + self.l2 / 2 * (w * w).sum() for w in matrices.values())
        gradients = {name: self.l1 * np.sign(w) + self.l2 * w for name, w in matrices.items()}
        for rows in parts(len(x), size or len(x)):
            a, kept = self.forward(x[rows], training, int(rows[0]))
            value, delta = LOSSES[self.loss_name](a, y[rows])
            C += value * len(a) / len(x)
            for name, g in self.backward(delta * len(a) / len(x), kept).items():
                gradients[name] = gradients.get(name, 0.0) + g
        return C, gradients

    def predict(self, x):
        a = self.forward(x)[0]
        if self.loss_name == "cross_entropy":
            return np.exp(a - np.logaddexp.reduce(a, axis=1, keepdims=True))
        return {"binary_cross_entropy": sigmoid, "poisson": np.exp}.get(self.loss_name, lambda a: a)(a)

    def evaluate(self, x, y):
        p, scores = self.predict(x), {"loss": self.loss_and_gradients(x, y)[0]}
        if self.loss_name == "cross_entropy":
            return {**scores, "accuracy": np.mean(p.argmax(1) == (y if y.ndim == 1 else y.argmax(1)))}
        if self.loss_name == "binary_cross_entropy":
            return {**scores, "accuracy": np.mean((p >= 0.5) == (y >= 0.5))}
        r2 = 1 - ((y - p) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
        return {**scores, "r2": np.mean(r2), "mean_absolute_error": np.mean(abs(p - y))}

    def train_step(self, x, y, optimizer, size=None):
        """C before the update, and the norm of its gradient."""
        optimizer.rate(optimizer.t + 1)
        self.check_rows(*map(len, parts(len(x), size or len(x))))
        C, gradients = self.loss_and_gradients(x, y, True, size)
        self.masks += 1
        return C, optimizer.step(self.weights, gradients)

    def fit(self, x, y, optimizer, epochs, batch, shuffle, size=None, validation=None, stopping=None, listen=None):
        """Its epochs' records are kept in `records`. stopping: (column, patience, 1 where less of it is better, else -1).
        listen(epoch, steps, None) after each step and listen(epoch, None, record) after each epoch may raise.
        """
        n, best, listen = len(x), (np.inf, 0, None), listen or (lambda *_: None)
        for rows in parts(n, batch):
            self.check_rows(*map(len, parts(len(rows), size or n)))
        optimizer.fit = optimizer.t, epochs * len(parts(n, batch))
        self.records, self.stopped = [], "epochs"
        try:
            for epoch in range(1, epochs + 1):
                order = host_generator(self.seed, 1, self.epochs).permutation(n) if shuffle else np.arange(n)
                done = []
                for rows in (order[part] for part in parts(n, batch)):
                    done.append((len(rows), *self.train_step(x[rows], y[rows], optimizer, size)))
                    listen(epoch, len(done), None)
                self.epochs += 1
                loss, norm = sum(m * C for m, C, _ in done) / n, np.mean([norm for *_, norm in done])
                record = {"epoch": epoch, "loss": loss, "gradient_norm": norm}
                record["learning_rate"] = optimizer.rate(optimizer.t)
                for name, value in self.evaluate(*validation).items() if validation else ():
                    record[f"val_{name}"] = value
                self.records.append(record)
                listen(epoch, None, record)
                if stopping:
                    column, patience, sign = stopping
                    if sign * record[column] < best[0]:
                        best = sign * record[column], epoch, dict(self.weights)
                    elif epoch - best[1] >= patience:
                        self.stopped = "patience"
                        break
        finally:
            self.best_epoch, self.weights = best[1], best[2] or self.weights


SCHEDULES = {
    "constant": lambda p: 1.0,
    "step": lambda p: 0.1 ** min(int(3 * p), 2),
    "cosine": lambda p: (1 + cos(pi * p)) / 2,
}
"""name -> the factor of the rate at the share p of the run, which begins after the warm-up."""


class Optimizer:
    """schedule: its name, the steps of its warm-up, and those of the whole run, or None: each fit is one."""

    def __init__(self, rule, eta, schedule, decay=0.0, clip_norm=np.inf, clip_value=np.inf, **settings):
        self.rule, self.eta, self.schedule, self.settings = rule, eta, schedule, settings
        self.decay, self.clip_norm, self.clip_value = decay, clip_norm, clip_value
        self.moments, self.t = {}, 0
        self.fit = (0, 0)  # the steps before the fit, and those that it has

    # Each rule gives what is taken off a parameter, from its gradient g; s: its moments, {} at first.
    def sgd(self, g, s, eta, momentum=0.0, nesterov=False):
        s["v"] = momentum * s.get("v", 0) + g
        return eta * (g + momentum * s["v"] if nesterov else s["v"])

    def adam(self, g, s, eta, betas=(0.9, 0.999), eps=1e-8):
        s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
        s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g
        return eta * s["m"] / (1 - betas[0] ** self.t) / (np.sqrt(s["v"] / (1 - betas[1] ** self.t)) + eps)

    adamw = adam

    def rmsprop(self, g, s, eta, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
        s["s"] = alpha * s.get("s", 0) + (1 - alpha) * g * g
        s["g"] = alpha * s.get("g", 0) + (1 - alpha) * g
        s["v"] = momentum * s.get("v", 0) + g / (np.sqrt(s["s"] - (s["g"] ** 2 if centered else 0)) + eps)
        return eta * s["v"]

    def rate(self, t):
        """eta of step t = 1, 2, ..."""
        (name, warmup, total), step = self.schedule, t - 1
        if name != "constant" and total is None:
            begun, total = self.fit
            step -= begun
            if not 0 <= step < total:
                raise RefusedError("a share of an unknown number of steps")
        share = max(step - warmup, 0) / max((total or 0) - warmup, 1)
        return self.eta * SCHEDULES[name](min(share, 1)) * min((step + 1) / (warmup + 1), 1)

    def step(self, weights, gradients):
        """Change the weights; returns the norm of their gradient. The decay of adamw is apart from its gradient."""
        self.t += 1
        eta, penalty = self.rate(self.t), 0.0 if self.rule == "adamw" else self.decay
        gradients = {name: np.clip(g, -self.clip_value, self.clip_value) for name, g in gradients.items()}
        norm = sqrt(sum((g * g).sum() for g in gradients.values()))
        for name, g in gradients.items():
            p, s = weights[name], self.moments.setdefault(name, {})
            g = g * min(1, self.clip_norm / (norm + 1e-6)) + penalty * p
            weights[name] = p - eta * (self.decay - penalty) * p - getattr(self, self.rule)(g, s, eta, **self.settings)
        return norm
