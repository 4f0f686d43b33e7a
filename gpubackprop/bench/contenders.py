"""A contender of a comparison: a device, the type it computes in, and on the CPU the number of threads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpubackprop.backend.base import DeviceInfo
from gpubackprop.backend.select import devices
from gpubackprop.bench.machine import available_cores
from gpubackprop.errors import ArgumentError, ArgumentTypeError

_FORM = re.compile(
    r"(?P<device>cpu|strict|cuda(?::\d+)?)(?:@(?P<threads>\d+))?(?::(?P<kind>float32|float64|tf32|bf16|fp16))?"
)
_EXAMPLES = "cpu, cpu@1 (one thread), cpu:float64, cpu@2:float64, strict, cuda, cuda:1, cuda:0:tf32"


@dataclass(frozen=True)
class Contender:
    """One of the columns of a comparison.

    device: a name for `get_backend`. dtype: of the parameters. precision: of the products. threads: of NumPy's products,
    or None for what the environment says.
    """

    device: str
    dtype: str = "float32"
    precision: str = "native"
    threads: int | None = None

    @property
    def label(self) -> str:
        """The text that `parse` takes: "cpu@1:float64"."""
        kind = self.dtype if self.precision == "native" else self.precision
        threads = "" if self.threads is None else f"@{self.threads}"
        return f"{self.device}{threads}{'' if kind == 'float32' else f':{kind}'}"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """DEVICE[@THREADS][:float32|float64|tf32|bf16|fp16]. Raises ArgumentError for anything else."""
        if not isinstance(text, str):
            raise ArgumentTypeError(f"a device to compare must be text such as {_EXAMPLES}; got {text!r}")
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ArgumentError(f"cannot compare {text!r}; expected something like {_EXAMPLES}")
        device, threads, kind = match["device"], match["threads"], match["kind"] or "float32"
        if device == "cuda":
            device = "cuda:0"
        on_gpu = device.startswith("cuda")
        if threads is not None and (on_gpu or int(threads) == 0):
            why = "a GPU has no number of threads to set" if on_gpu else "at least one thread is needed"
            raise ArgumentError(f"cannot compare {text!r}: {why}")
        if kind.startswith("float"):
            return cls(device, dtype=kind, threads=int(threads) if threads else None)
        if not on_gpu:
            raise ArgumentError(f"cannot compare {text!r}: products in {kind} need an NVIDIA GPU, as in cuda:{kind}")
        return cls(device, precision=kind)

    def environment(self) -> dict[str, str]:
        """The variables by which the BLAS libraries that NumPy may use are told their number of threads."""
        if self.threads is None:
            return {}
        names = ("OPENBLAS", "OMP", "MKL", "BLIS")
        return {f"{name}_NUM_THREADS": str(self.threads) for name in names} | {
            "VECLIB_MAXIMUM_THREADS": str(self.threads)
        }


def contenders(wanted: str | Sequence[str] | None) -> list[Contender]:
    """The contenders of "cpu,cuda:tf32" or ["cpu", "cuda:tf32"]; of None: all devices that work here.

    Without a GPU, None compares the CPU's single thread with all its threads. Raises ArgumentError for names that cannot be
    read or that come twice.
    """
    if wanted is None:
        return _all(devices())
    if not isinstance(wanted, (str, list, tuple)):
        raise ArgumentTypeError(f"devices must be text or a list of texts; got {wanted!r}")
    texts = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    found = [Contender.parse(text) for text in texts]
    if not found:
        raise ArgumentError(f"devices is empty; expected one or more of {_EXAMPLES}")
    for i, contender in enumerate(found):
        if contender in found[:i]:
            raise ArgumentError(f"devices names {contender.label!r} twice")
    return found


def _all(there: list[DeviceInfo]) -> list[Contender]:
    gpus = [Contender(d.name) for d in there if d.working and d.name.startswith("cuda")]
    if gpus:
        return [Contender("cpu"), *gpus]
    count = available_cores()
    return [Contender("cpu", threads=1), *([Contender("cpu", threads=count)] if count > 1 else [])]
