from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.random import MaskStream, host_generator, philox4x32, random_words, split_seed


# Known answers for philox4x32 with 10 rounds from the authors' Random123 (tests/kat_vectors).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_published_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    c0, c1, c2, c3, p0, p1 = (np.full(3, word, np.uint64) for word in (*counter, 0, 0))
    philox4x32((c0, c1, c2, c3), key, (p0, p1))
    for word, expected in zip((c0, c1, c2, c3), answer, strict=True):
        np.testing.assert_array_equal(word, np.uint64(expected))


def philox_in_integers(counter: list[int], key: tuple[int, int]) -> list[int]:
    """Salmon et al. (2011), figure 2, in Python's own integers."""
    c, (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


@pytest.mark.parametrize("first", [0, 1, 3, 4, 2**34 - 2])
def test_words_count_as_documented(first: int) -> None:
    seed, step, layer = 0x0123456789ABCDEF, 17, 5
    words = random_words(9, seed=seed, step=step, layer=layer, first=first)
    assert words.dtype == np.uint32
    for i, word in enumerate(words):
        e = first + i
        quad = philox_in_integers([e // 4 & 0xFFFFFFFF, step, layer, e // 4 >> 32], (0x89ABCDEF, 0x01234567))
        assert word == quad[e % 4]


def test_words_from_any_place_are_the_same_words() -> None:
    all_words = random_words(64, seed=3)
    for first in range(0, 40, 7):
        np.testing.assert_array_equal(random_words(20, seed=3, first=first), all_words[first : first + 20])
    assert random_words(0, seed=3).shape == (0,)


def test_other_seed_step_or_layer_gives_other_words() -> None:
    settings = [{"seed": s, "step": t, "layer": k} for s in (0, 1, 2**32) for t in (0, 1) for k in (0, 1)]
    words = np.stack([random_words(1000, **s) for s in settings])
    assert len(np.unique(words)) > 0.99 * words.size
    bits = np.unpackbits(words.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / sqrt(bits.size)


def test_seed_halves() -> None:
    assert split_seed(0x1122334455667788) == (0x55667788, 0x11223344)


def mask(be: Backend, shape: tuple[int, int], p: float, step: int = 0, first: int = 0, seed: int = 7) -> np.ndarray:
    counter = be.zeros((), np.uint64)
    be.fill(counter, step)
    out = be.empty(shape, np.float64)
    MaskStream(seed, 2, p, counter).fill_mask(be, out, first)
    return be.to_host(out)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_mask_bits(backend: Backend, p: float) -> None:
    found = mask(backend, (5, 7), p, step=3)
    kept = random_words(35, seed=7, step=3, layer=2) < round((1 - p) * 2**32)
    np.testing.assert_array_equal(found, np.where(kept, 1 / (1 - p), 0).reshape(5, 7))


def test_mask_share() -> None:
    kept = np.count_nonzero(mask(gb.get_backend("cpu"), (400, 250), 0.3))
    assert abs(kept / 100_000 - 0.7) < 5 * sqrt(0.21 / 100_000)


@pytest.mark.parametrize("row", [1, 2, 3, 4, 5])
def test_mask_of_later_rows_is_a_part_of_the_whole(backend: Backend, row: int) -> None:
    whole = mask(backend, (8, 7), 0.5)
    np.testing.assert_array_equal(mask(backend, (8 - row, 7), 0.5, first=row * 7), whole[row:])


def test_mask_stream_serves_any_order_of_sizes_and_places(backend: Backend) -> None:
    stream = MaskStream(7, 2, 0.5, backend.zeros((), np.uint64))
    whole = mask(backend, (8, 7), 0.5)
    for first, rows in ((0, 2), (0, 8), (3, 4), (1, 1), (0, 8), (6, 2)):
        out = backend.empty((rows, 7), np.float64)
        stream.fill_mask(backend, out, first * 7)
        np.testing.assert_array_equal(backend.to_host(out), whole[first : first + rows])


def test_host_generators_of_other_purpose_or_seed_are_others() -> None:
    draws = [host_generator(*key).random(4).tolist() for key in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (0, 0))]
    assert len({tuple(d) for d in draws}) == len(draws)
    assert host_generator(0, 0, 1).random(4).tolist() == draws[0]
