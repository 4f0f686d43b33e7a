"""`gpubackprop doctor`."""

from __future__ import annotations

import platform
from functools import partial
from typing import Annotated

import numpy as np
from typer import Exit, Option

from gpubackprop import __version__, mlp
from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads
from gpubackprop.backend.cuda.diagnosis import software
from gpubackprop.backend.cuda.measurements import FILES
from gpubackprop.backend.select import fallback_reason, get_backend
from gpubackprop.bench.machine import version_of
from gpubackprop.cli.devices import devices
from gpubackprop.cli.output import FAILED
from gpubackprop.files import cache
from gpubackprop.optimizers import SGD
from gpubackprop.terminal import Terminal
from gpubackprop.terminal import say as tell

_EXTRAS = {
    "numba": "numba",
    "scipy": "numba",
    "mkl": "mkl",
    "scikit-learn": "data",
    "pyarrow": "data",
    "matplotlib": "plot",
}
"""Which extra brings a package."""


def doctor(
    device: Annotated[str, Option(help="The device to try a training step on.")] = "auto",
    precision: Annotated[str | None, Option(help="fp32, fp64, or on a GPU tf32, bf16, fp16.")] = None,
    remeasure: Annotated[
        bool,
        Option(
            "--remeasure", help="Forget which algorithms were the quickest on a GPU: they are timed anew when used."
        ),
    ] = False,
) -> None:
    """Say what this installation runs on, and what keeps it from a GPU; try one training step.

    Ends with status 1 if that does not work.
    """
    console = Terminal()
    if remeasure:
        console.print(f"forgot {cache.forget(f'{FILES}*')} files of measurements", highlight=False)

    say = partial(tell, console)
    say(f"gpubackprop {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}")
    say(f"BLAS: {blas_name()}, {blas_threads() or 'an unknown number of'} threads")
    devices()
    reason = fallback_reason()
    say(f'device="auto" takes {get_backend("auto").name}' + (f": {reason}" if reason else ""))
    for line in software():
        say(f"  {line}")
    for name, extra in _EXTRAS.items():
        missing = f'not installed (pip install "gpubackprop[{extra}]")'
        say(f"  {name:<14} {version_of(name) or missing}")
    net = mlp([8, 16, 3], loss="cross_entropy", device=device, precision=precision)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8)), rng.integers(0, 3, 32)
    before, optimizer = net.loss(x, y), SGD(0.1)
    for _ in range(20):
        net.train_step(x, y, optimizer)
    after = net.loss(x, y)
    verdict = "works" if after < before else "DOES NOT WORK: the loss should have fallen"
    say(f"20 training steps on {net.backend.name}: loss {before:.4f} -> {after:.4f}: {verdict}")
    say(f"steps there: {net.backend.describe()}")
    if not after < before:
        raise Exit(FAILED)
