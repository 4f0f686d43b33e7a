"""scikit-learn's MLP: its own backpropagation and update, without the checks that `partial_fit` puts around them."""

from __future__ import annotations

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.peers.base import LEARNING_RATE, MOMENTUM, Config, Peer


class Sklearn(Peer):
    """`_backprop` and `_optimizer.update_params` of `MLPClassifier` or `MLPRegressor`, which are no public names."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        x, y = config.first_batch()
        kind = MLPClassifier if config.loss == "cross_entropy" else MLPRegressor
        self.model = kind(
            hidden_layer_sizes=config.widths[1:-1],
            activation={"relu": "relu", "sigmoid": "logistic"}[config.activation],
            solver=config.optimizer,
            alpha=0.0,
            batch_size=config.batch,
            learning_rate_init=LEARNING_RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
        )
        options = {}
        if config.loss == "cross_entropy":
            options["classes"] = np.arange(config.widths[-1])
            targets = np.eye(config.widths[-1], dtype=np.float32)[y]
        else:
            targets = y
            y = y.ravel() if y.shape[1] == 1 else y
        self.model.partial_fit(x, y, **options)
        model = self.model
        for i, (W, b) in enumerate(config.weights()):
            model.coefs_[i][...], model.intercepts_[i][...] = W, b
        a = [x, *(np.empty((config.batch, m), np.float32) for m in config.widths[1:])]
        deltas = [np.empty_like(z) for z in a[1:]]
        dW, db = [np.empty_like(W) for W in model.coefs_], [np.empty_like(b) for b in model.intercepts_]
        self.backprop = lambda: model._backprop(x, targets, None, a, deltas, dW, db)

    def gradients(self) -> list[np.ndarray]:
        _, dW, db = self.backprop()
        return [array.copy() for pair in zip(dW, db, strict=True) for array in pair]

    def run(self, steps: int) -> None:
        model = self.model
        for _ in range(steps):
            _, dW, db = self.backprop()
            model._optimizer.update_params(model.coefs_ + model.intercepts_, dW + db)

    def versions(self) -> dict[str, str]:
        return {"scikit-learn": sklearn.__version__}
