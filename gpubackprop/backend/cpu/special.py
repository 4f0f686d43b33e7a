"""Functions that the array libraries leave to others, as array expressions in preallocated memory."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

# log(erfc(x) exp(x^2) / t) with t = 2 / (2 + x), as a polynomial in u = 2 t - 1, lowest power first: the Chebyshev
# expansion (computed with 50 digits) cut after 25 terms for float64 and after 13 for float32. The form, with t taken
# out and the exponential apart, is that of Press et al., Numerical Recipes, 3rd edition, section 6.2.2.
_ERFC_FLOAT64 = (
    -0.67179408405669039,
    0.67264322397769094,
    0.04734330684134043,
    -0.04689561023437841,
    -0.0098726893376677172,
    0.0088249386448846015,
    0.0017589329872838867,
    -0.0023458136039187115,
    -0.00014624102618353835,
    0.00067368643894961532,
    -9.3770207482499665e-05,
    -0.00017433499314560157,
    7.1535368807137335e-05,
    3.1830325961285943e-05,
    -3.0526346584481464e-05,
    -7.2034893446172228e-09,
    9.1344454096442169e-06,
    -2.7949486028389887e-06,
    -1.9177006619040425e-06,
    1.1625778750324928e-06,
    3.0466387313736068e-07,
    -2.4036103045400314e-07,
    -5.7590156591286044e-08,
    2.1121580447918057e-08,
    1.0216337863790859e-08,
)
_ERFC_FLOAT32 = (
    -0.67179408515172379,
    0.67264315477451131,
    0.047343417521266744,
    -0.046893640559210081,
    -0.0098745349210000409,
    0.0088088253644837793,
    0.0017706661318832365,
    -0.0022887652257643841,
    -0.00018278217066124055,
    0.00057376635750115766,
    -3.2113743472778461e-05,
    -8.7283804314507965e-05,
    1.3371492807110631e-05,
)


def normal_cdf(z: np.ndarray, out: np.ndarray, x: np.ndarray, u: np.ndarray) -> None:
    """out = Phi(z) = erfc(-z / sqrt 2) / 2, for one-dimensional z, with x and u as scratch of the same shape.

    Largest error 2e-15 in float64, relative to Phi 1e-12 for z > -37; float32 to its own rounding. Complex z with a
    tiny imaginary part gives the derivative there (complex step), since nothing but the sign of z is branched on.
    """
    coefficients = _ERFC_FLOAT32 if z.dtype == np.float32 else _ERFC_FLOAT64
    np.multiply(z, 1 / sqrt(2), out=x)
    np.negative(x, out=u)
    np.maximum(x, u, out=x)
    np.add(x, 2.0, out=u)
    np.divide(4.0, u, out=u)
    np.subtract(u, 1.0, out=u)
    out[...] = coefficients[-1]
    for c in coefficients[-2::-1]:
        np.multiply(out, u, out=out)
        np.add(out, c, out=out)
    np.multiply(x, x, out=x)
    np.subtract(out, x, out=out)
    np.exp(out, out=out)
    np.add(u, 1.0, out=u)
    np.multiply(out, u, out=out)
    np.multiply(out, 0.25, out=out)
    # So far out = Phi(-|z|); the other half is 1 - that: out = h + s * out with h, s = 1, -1 or 0, 1.
    np.greater(z, 0, out=u, casting="unsafe")
    np.multiply(u, -2.0, out=x)
    np.add(x, 1.0, out=x)
    np.multiply(out, x, out=out)
    np.add(out, u, out=out)


class Blocks:
    """Scratch for a function that is computed block by block, so that its temporaries stay in the cache."""

    SIZE = 16384

    def __init__(self) -> None:
        self._held: dict[Any, tuple[np.ndarray, ...]] = {}

    def take(self, count: int, dtype: Any) -> tuple[np.ndarray, ...]:
        """`count` arrays of SIZE elements of `dtype`, made once."""
        key = (count, np.dtype(dtype))
        if key not in self._held:
            self._held[key] = tuple(np.empty(self.SIZE, dtype) for _ in range(count))
        return self._held[key]
