"""What every reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Arrays ready for training; C-contiguous, in native byte order, finite, at least one row.

    x: (n, d), uint8 for images, otherwise float32, or float64 where float32 would lose the differences between the rows
    (see `gpubackprop.data.arrays.features`). y: (n,) int64 labels 0..k-1 for classification, (n, m) float64 for
    regression. classes: the k label names in label order, () for regression. features: the d column names, () where
    the source has none. x_test, y_test: the official test part, or None. targets: the names of what y holds.
    """

    name: str
    x: NDArray[np.generic]
    y: NDArray[np.generic]
    task: Task
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    x_test: NDArray[np.generic] | None = None
    y_test: NDArray[np.generic] | None = None
    targets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        goal = f"{len(self.classes)} classes" if self.task == "classification" else f"{self.y.shape[1]} targets"
        test = "" if self.x_test is None else f", {len(self.x_test):,} test rows"
        return f"Dataset({self.name!r}: {self.task}, {self.x.dtype} x {self.x.shape}, {goal}{test})"
