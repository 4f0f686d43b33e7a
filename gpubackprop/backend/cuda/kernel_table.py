"""The facts by which the host launches a kernel of kernels.cu: its name expression, the types of its arguments, and the launch
geometry.

Kernels, activations, losses and optimizer rules are read from the source itself, so that there is no second list of them.
Types are C names: float, double, f16, bf16, unsigned char, int, long long (`C_TYPE` gives them for a dtype's name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import product

from gpubackprop.backend.cuda.compile import DIRECTORY, source
from gpubackprop.errors import ArgumentError, unknown_name

C_TYPE = {
    "float32": "float",
    "float64": "double",
    "float16": "f16",
    "bfloat16": "bf16",
    "uint8": "unsigned char",
    "int32": "int",
    "int64": "long long",
}
"""The C name of a dtype that arrays have."""

SIZE = {"float": 4, "double": 8, "f16": 2, "bf16": 2, "unsigned char": 1, "int": 4, "long long": 8}
"""Bytes of an element."""

SCALAR = {
    "index_t": "int64",
    "int": "int32",
    "unsigned": "uint32",
    "unsigned long long": "uint64",
    "float": "float32",
    "double": "float64",
}
"""The dtype in which an argument that is no pointer is handed over."""

STORAGE = ("float", "double", "f16", "bf16")
GATHERED = tuple(product(("unsigned char", "f16", "float", "double"), STORAGE))
"""Types of rows in a data set and in the batch."""
GATHERED_TARGETS = (
    ("long long", "long long"),
    ("float", "float"),
    ("double", "double"),
)
"""The same of labels and targets."""
GROUPS = (8, 32, 256)
"""Threads that share a row, in the kernels with a GROUP."""

NARROW_WIDTHS = (16, 32, 64, 128)
"""W of the kernels of narrow.cu: columns that a warp keeps in registers."""
NARROW_ROWS = {"float": 32, "f16": 64, "bf16": 64}
"""Rows that a block of theirs works on at a time, by type (float: products in tf32)."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as the source declares it. `type` is the C type without const and star."""

    name: str
    type: str
    pointer: bool
    const: bool


@dataclass(frozen=True)
class Kernel:
    """A kernel as the source declares it: the names of its template's parameters, and its parameters in their terms."""

    name: str
    template: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    def expression(self, *arguments: str | int) -> str:
        """The name expression of an instantiation, for NVRTC: `kernel("dropout").expression("float")`."""
        if len(arguments) != len(self.template):
            raise ArgumentError(
                f"kernel {self.name} takes {len(self.template)} template arguments ({', '.join(self.template)}); "
                f"got {arguments!r}"
            )
        return f"{self.name}<{', '.join(map(str, arguments))}>" if arguments else self.name


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^<]*>)", text) if part.strip()]


def _parameter(text: str) -> Parameter:
    kind, name = re.fullmatch(r"(.*?)(\w+)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    bare = kind.replace("*", "").removeprefix("const ").strip()
    return Parameter(name, bare, "*" in kind, kind.startswith("const "))


@cache
def kernels() -> dict[str, Kernel]:
    """All kernels of kernels.cu, by name."""
    declaration = re.compile(
        r"^(?:template <((?:[^<>]|<[^<>]*>)*)>\s+)?__global__ void (\w+)\(([^)]*)\)", re.MULTILINE | re.DOTALL
    )
    found = {}
    for header, name, parameters in declaration.findall(source()):
        template = tuple(part.split()[-1] for part in _split(header))
        found[name] = Kernel(name, template, tuple(_parameter(" ".join(p.split())) for p in _split(parameters)))
    return found


def kernel(name: str) -> Kernel:
    """The kernel of that name. Raises ArgumentError for an unknown one."""
    if name not in kernels():
        raise unknown_name("kernel", name, kernels())
    return kernels()[name]


# -- activations, losses and optimizer rules ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Functor:
    """A struct of activation.cu or loss.cu that a kernel is instantiated with: its numbers and its yes-or-no marks."""

    name: str
    constants: dict[str, float]
    marks: dict[str, bool]


@cache
def functors(file: str) -> dict[str, Functor]:
    """The structs of a file that are no templates, by name."""
    found = {}
    for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", _text(file), re.MULTILINE | re.DOTALL):
        members = {
            kind: dict(
                re.findall(r"(\w+) = ([^,;]+)", ", ".join(re.findall(rf"static constexpr {kind} ([^;]+);", body)))
            )
            for kind in ("double", "bool")
        }
        if members["bool"]:
            constants = {key: float(value) for key, value in members["double"].items()}
            found[name] = Functor(name, constants, {key: value == "true" for key, value in members["bool"].items()})
    return found


@dataclass(frozen=True)
class Rule:
    """A rule of optimizer.cu, for an optimizer's class: the attributes that are its constants, and the names of its states."""

    name: str
    optimizer: str
    constants: tuple[str, ...]
    states: tuple[str, ...]


@cache
def rules() -> tuple[Rule, ...]:
    """All rules of optimizer.cu, one entry for each class that a rule is of."""
    marked = re.findall(
        r"^// Rule of (.+): states (.+); scalars .+\ntemplate <typename A> (?:struct|using) (\w+)",
        _text("optimizer.cu"),
        re.MULTILINE,
    )
    return tuple(
        Rule(name, optimizer, tuple(_split(constants)), () if states == "none" else tuple(_split(states)))
        for owners, states, name in marked
        for optimizer, constants in re.findall(r"(\w+)\((.*?)\)", owners)
    )


def _text(file: str) -> str:
    return (DIRECTORY / file).read_text(encoding="utf-8")


# -- launch geometry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """Blocks of a grid and threads of a block."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]

    @property
    def blocks(self) -> int:
        """Blocks of the whole grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]


THREADS = 256
_BLOCKS_A_MULTIPROCESSOR = 8  # of 256 threads each: full occupancy


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def vector_width(c_type: str, cols: int, *addresses: int) -> int:
    """V of a column kernel: elements in 16 bytes where they divide the columns and all addresses are so aligned, else 1."""
    width = 16 // SIZE[c_type]
    return width if cols % width == 0 and all(address % 16 == 0 for address in addresses) else 1


def flat(n: int, width: int, multiprocessors: int) -> Launch:
    """A pass over n elements, `width` of them a thread and turn (the narrowest array's 16 bytes, or 1)."""
    blocks = min(_ceil(n, THREADS * width), _BLOCKS_A_MULTIPROCESSOR * multiprocessors)
    return Launch((max(blocks, 1), 1, 1), (THREADS, 1, 1))


def columns(rows: int, cols: int, width: int, multiprocessors: int) -> Launch:
    """The first stage of a reduction over rows; grid[1] is the number of splits, the first axis of `partial`.

    A thread gets 8 rows or more where there are that many; the order of the sums depends on nothing but the arguments.
    """
    across = min(32, 1 << (_ceil(cols, width) - 1).bit_length())
    down = THREADS // across
    blocks = _ceil(cols, across * width)
    splits = min(_ceil(rows, 8 * down), max(_BLOCKS_A_MULTIPROCESSOR * multiprocessors // 2 // blocks, 1))
    return Launch((blocks, max(splits, 1), 1), (across, down, 1))


def finish_columns(cols: int, sums: int = 1) -> Launch:
    """The second stage: finish_column_sums (`sums` arrays at once) and finish_spreads."""
    return Launch((_ceil(cols, 32), sums, 1), (32, 8, 1))


def group_of(cols: int) -> int:
    """GROUP for rows of that many columns."""
    return GROUPS[0] if cols <= 32 else GROUPS[1] if cols <= 2048 else GROUPS[2]


def rows(n: int, group: int, multiprocessors: int) -> Launch:
    """A kernel in which `group` threads share a row, for n rows."""
    blocks = min(_ceil(n, THREADS // group), _BLOCKS_A_MULTIPROCESSOR * multiprocessors)
    return Launch((max(blocks, 1), 1, 1), (THREADS, 1, 1))


def gather(n: int, multiprocessors: int) -> Launch:
    """gather_rows, for n rows: a warp a row."""
    return Launch((max(min(_ceil(n, 8), _BLOCKS_A_MULTIPROCESSOR * multiprocessors), 1), 1, 1), (32, 8, 1))


def segments(longest: int, count: int, multiprocessors: int) -> Launch:
    """The kernels of layerwise.cu, for `count` tensors of which the largest has `longest` elements."""
    blocks = min(_ceil(longest, 4 * THREADS), max(_BLOCKS_A_MULTIPROCESSOR * multiprocessors // count, 1))
    return Launch((max(blocks, 1), count, 1), (THREADS, 1, 1))


def segment_ratios(count: int) -> Launch:
    """segment_ratios for `count` tensors."""
    return Launch((count, 1, 1), (32, 1, 1))


def narrow(n: int, c_type: str, multiprocessors: int) -> Launch:
    """The kernels of narrow.cu, for n rows: 16 a warp."""
    rows_at_once = NARROW_ROWS[c_type]
    return Launch((max(min(_ceil(n, rows_at_once), 2 * multiprocessors), 1), 1, 1), (2 * rows_at_once, 1, 1))


def one_block() -> Launch:
    """The kernels of a single thread block: set_scalars, advance, update_loss_scale."""
    return Launch((1, 1, 1), (THREADS, 1, 1))
