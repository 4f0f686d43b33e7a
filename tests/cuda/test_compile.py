"""NVRTC compiles kernels.cu, without a GPU, and nothing spills."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from gpubackprop.backend.cuda import compile as compiler
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.errors import ArgumentError, DeviceError, MissingExtraError
from tests.cuda.variants import variants

ARCHITECTURES = ["sm_70", "sm_80", "sm_90", "sm_100", "sm_120"]
VERBOSE = (*compiler.OPTIONS, "--ptxas-options=-v")
"""The log then has the registers, shared memory and spills of each kernel."""


def _without_nvrtc():
    try:
        compiler.version()
    except MissingExtraError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(_without_nvrtc()), reason=_without_nvrtc())


@dataclass(frozen=True)
class Resources:
    """The resources of one compiled kernel: registers a thread, shared memory in bytes a block, bytes spilled."""

    registers: int
    shared: int
    spilled: int


def resources(log: str) -> dict[str, Resources]:
    """What a log of a compilation with `VERBOSE` tells, by lowered name."""

    def total(pattern: str, part: str) -> int:
        return sum(map(int, re.findall(pattern, part)))

    parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    return {
        name: Resources(
            registers=total(r"Used (\d+) registers", part),
            shared=total(r"(\d+) bytes smem", part),
            spilled=total(r"(\d+) bytes spill", part),
        )
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }


def compile_all(arch, chosen):
    """Compile and return the resources of each name expression; skip what this NVRTC no longer supports."""
    supported = compiler.supported_architectures()
    if arch not in supported:
        pytest.skip(f"this NVRTC compiles for {supported[0]} to {supported[-1]} only")
    # The kernels for narrow layers are asked for from sm_80 on alone.
    chosen = {k: t for k, t in chosen.items() if int(arch[3:]) >= 80 or not k.startswith("narrow")}
    names = [table.kernel(name).expression(*template) for name, templates in chosen.items() for template in templates]
    return used_by(compiler.source(), arch, names)


def used_by(text, arch, names):
    """The resources of each name expression of CUDA C++."""
    with compiler._compiled(text, arch, names, VERBOSE) as program:
        assert compiler._read(program, "CUBIN")[:4] == b"\x7fELF"
        used = resources(compiler._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace"))
        return {name: used[compiler._lowered(program, name)] for name in names}


def compile_ptx(text, arch, names):
    """The PTX of a compilation, to read."""
    with compiler._compiled(text, arch.replace("sm_", "compute_"), names) as program:
        return compiler._read(program, "PTX").rstrip(b"\0").decode()


def widest():
    """One or two variants of each kernel, those that take the most registers and shared memory."""
    table_ = {name: [templates[0], templates[-1]] for name, templates in variants().items()}
    for name in ("bias_activation", "activation_derivative"):
        table_[name] = [("f16", "GELUTanh"), ("double", "GELU")]
    table_["cross_entropy"] = [
        ("f16", "f16", 8),
        ("float", "int", 256),
        ("double", "long long", 32),
    ]
    table_["optimizer_step"] = [
        ("Adam", "float", "bf16"),
        ("RMSpropCenteredMomentum", "double", "double"),
        ("NAdam", "float", "float"),
    ]
    return {name: list(dict.fromkeys(templates)) for name, templates in table_.items()}


def assert_modest(used):
    """No spills, two blocks at once on every device, of 256 threads (narrow layers: 128), and shared memory within the limit of
    a static array."""
    assert {name: r for name, r in used.items() if r.spilled} == {}
    assert {
        name: r for name, r in used.items() if not 0 < r.registers <= _registers(name) or r.shared > 48 * 1024
    } == {}


def _registers(name):
    return 255 if name.startswith("narrow") else 128


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kernel_compiles_without_spills(arch):
    assert set(widest()) == set(table.kernels())
    assert_modest(compile_all(arch, widest()))


@needs_nvrtc
@pytest.mark.nightly
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_variant_compiles_without_spills(arch):
    assert_modest(compile_all(arch, variants()))


@needs_nvrtc
def test_float_kernels_do_no_double_arithmetic():
    """An overload that is missing would silently promote, at a thirty-second of the speed on most GPUs."""
    names = [table.kernel("activation").expression("float", function) for function in table.functors("activation.cu")]
    names += ["batch_norm_apply<float>", "layer_norm_backward<float, 32>"]
    ptx = compile_ptx(compiler.source(), "sm_80", names)
    entries = re.findall(r"\.entry _Z\d+(?:activationI|batch|layer).*?^}", ptx, re.DOTALL | re.MULTILINE)
    assert len(entries) == len(names)
    arithmetic = r"(?:add|sub|mul|fma|div|sqrt|rcp|ex2|setp)\S*\.f64"
    # eps arrives as a double and is rounded once a thread
    assert [line for entry in entries for line in re.findall(arithmetic, entry)] == []


@needs_nvrtc
def test_the_log_is_in_the_error():
    with pytest.raises(DeviceError, match="undefined_thing"):
        compiler.compile_cubin("__global__ void f(int* x) { *x = undefined_thing; }", "sm_80", "f")


@needs_nvrtc
def test_resources_report_spills():
    """So that the tests above can fail: a kernel forced into few registers spills."""
    body = "".join(f"x[{i}] = x[{i}] * y[{i}] + x[{(i * 7) % 64}];" for i in range(64))
    load = "".join(f"x[{i}] = p[{i} * n]; y[{i}] = p[{i} * n + 1];" for i in range(64))
    save = "".join(f"p[{i} * n + 2] = x[{i}];" for i in range(64))
    text = (
        "__global__ void __launch_bounds__(1024, 2) f(float* p, int n) "
        f"{{ float x[64], y[64]; {load} __syncthreads(); {body} __syncthreads(); {body} {save} }}"
    )
    assert used_by(text, "sm_80", ["f"])["f"].spilled > 0


@pytest.mark.parametrize("arch", ["compute_80", "90", "sm_80 "])
def test_architecture_must_be_real(arch):
    with pytest.raises(ArgumentError, match="sm_90"):
        compiler.compile_cubin("", arch, "f")


def test_source_is_one_text_with_marks():
    text = compiler.source()
    assert "#include" not in text
    assert '#line 1 "optimizer.cu"' in text
