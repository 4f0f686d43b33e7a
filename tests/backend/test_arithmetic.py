from __future__ import annotations

import sys
import threading
import warnings

import numpy as np
import pytest

from gpubackprop.backend.arithmetic import Arithmetic, _flushing

SMALL = np.full(1000, 1e-40, np.float32)


def is_flushed() -> bool:
    return not (SMALL * np.float32(0.5)).any()


flushes = pytest.mark.skipif(_flushing() is None, reason="this processor, or its C library, is not known to flush")


@pytest.mark.skipif(sys.platform != "linux", reason="known on Linux alone")
def test_it_is_known_how_to_flush_here() -> None:
    assert _flushing() is not None


@flushes
def test_subnormal_numbers_are_zero_inside_alone() -> None:
    assert not is_flushed()
    with Arithmetic():
        assert is_flushed()
        with Arithmetic():
            assert is_flushed()
        assert is_flushed()
        assert np.finfo(np.float32).tiny * np.float32(1) == np.finfo(np.float32).tiny
    assert not is_flushed()


@flushes
def test_whatever_happens_all_is_as_before() -> None:
    with np.errstate(over="raise"):
        with pytest.raises(ValueError, match="whatever"), Arithmetic():
            raise ValueError("whatever")
        assert not is_flushed()
        with pytest.raises(FloatingPointError):
            np.exp(np.full(1, 1e3))


@flushes
def test_other_threads_go_on_as_they_were() -> None:
    seen: list[bool] = []
    with Arithmetic():
        thread = threading.Thread(target=lambda: seen.append(_in_a_thread_of_its_own()))
        thread.start()
        thread.join()
        assert is_flushed()
    assert seen == [True]


def _in_a_thread_of_its_own() -> bool:
    """Whether a block that ends here leaves this thread as it was."""
    before = is_flushed()
    with Arithmetic():
        inside = is_flushed()
    return inside and is_flushed() == before


def test_nothing_warns_inside() -> None:
    large = np.full(4, 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Arithmetic():
            assert np.isinf(large * large).all()
            assert np.isnan(large * large - large * large).all()
            assert np.isinf(large / (large - large)).all()
        with pytest.raises(RuntimeWarning):
            large * large
