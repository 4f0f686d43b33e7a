"""kernel_table.py: signatures read from the source, and launch geometry. That the declared types are the kernels' own
is checked by the compiler, whenever the harness builds."""

from __future__ import annotations

import pytest

from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.errors import ArgumentError
from tests.cuda.harness import bound, declaration
from tests.cuda.variants import variants


def test_signature():
    kernel = table.kernel("optimizer_step")
    assert kernel.template == ("Rule", "P", "H")
    parameters = {p.name: declaration(p) for p in bound(kernel, "Adam", "float", "f16")}
    assert list(parameters)[:6] == ["p", "g", "s0", "s1", "s2", "copy"]
    assert (parameters["p"], parameters["g"], parameters["copy"]) == ("float*", "const float*", "f16*")
    assert kernel.expression("Adam", "float", "f16") == "optimizer_step<Adam, float, f16>"


def test_accumulator_types():
    assert declaration(bound(table.kernel("batch_norm_apply"), "f16")[1]) == "const float*"
    assert declaration(bound(table.kernel("batch_norm_apply"), "double")[1]) == "const double*"


def test_every_kernel_has_variants_and_known_scalars():
    every = variants()
    assert set(every) == set(table.kernels())
    for name, templates in every.items():
        assert len(set(templates)) == len(templates) > 0
        for parameter in bound(table.kernel(name), *templates[0]):
            assert parameter.pointer or parameter.type in table.SCALAR


def test_unknown_kernel_and_wrong_count():
    with pytest.raises(ArgumentError, match="did you mean 'dropout'"):
        table.kernel("dropuot")
    with pytest.raises(ArgumentError, match="takes 1 template arguments"):
        table.kernel("dropout").expression("float", "f16")


@pytest.mark.parametrize("rows", [1, 31, 1000, 65536, 10**7])
@pytest.mark.parametrize(("cols", "width"), [(1, 1), (10, 1), (33, 1), (784, 1), (784, 4), (784, 8), (4096, 4), (8, 8)])
def test_geometry_of_columns(rows, cols, width):
    launch = table.columns(rows, cols, width, 132)
    across, down, _ = launch.block
    assert across * down == 256
    assert across & (across - 1) == 0
    assert launch.grid[0] * across * width >= cols
    assert 1 <= launch.grid[1] <= 8 * 132
    assert launch.blocks <= 8 * 132 or launch.grid[1] == 1


def test_geometry_of_flat_and_rows():
    assert table.flat(1, 4, 132).grid == (1, 1, 1)
    assert table.flat(10**9, 4, 132).grid == (8 * 132, 1, 1)
    assert table.rows(100, 8, 132).grid == (4, 1, 1)
    assert [table.group_of(c) for c in (1, 32, 33, 2048, 2049)] == [8, 8, 32, 32, 256]


def test_vector_width():
    assert table.vector_width("f16", 64, 1024, 2048) == 8
    assert table.vector_width("f16", 64, 1024, 2050) == 1
    assert table.vector_width("float", 37, 1024) == 1
