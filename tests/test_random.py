from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.random import MaskStream, host_generator, philox4x64
from tests.words import random_words

KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (2**64 - 1,) * 4,
        (2**64 - 1,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]
"""Known answers of the authors' Random123 (tests/kat_vectors) for philox4x64 with 10 rounds: counter, key, words."""


def philox_in_integers(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Salmon et al. (2011), figure 2, in Python's own integers."""
    c, (k0, k1), word = counter, key, 2**64 - 1
    for _ in range(10):
        p0, p1 = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = ((p1 >> 64) ^ c[1] ^ k0, p1 & word, (p0 >> 64) ^ c[3] ^ k1, p0 & word)
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
    return c


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_published_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    assert philox_in_integers(counter, key) == answer
    c, scratch = ([np.full(3, w, np.uint64) for w in words] for words in (counter, (0,) * 5))
    philox4x64(tuple(c), key, tuple(scratch))
    for word, expected in zip(c, answer, strict=True):
        np.testing.assert_array_equal(word, np.uint64(expected))
    # NumPy's counts up before it computes.
    before = sum(w << (64 * i) for i, w in enumerate(counter)) - 1
    numpy = np.random.Philox(key=sum(w << (64 * i) for i, w in enumerate(key)), counter=before % 2**256)
    np.testing.assert_array_equal(numpy.random_raw(4), np.array(answer, np.uint64))


@pytest.mark.parametrize("first", [0, 1, 3, 15, 16, 2**36 - 2])
def test_words_count_as_documented(first: int) -> None:
    seed, step, layer = 0xF123456789ABCDEF, 2**63 + 17, 5
    words = random_words(37, seed=seed, step=step, layer=layer, first=first)
    assert words.dtype == np.uint16
    for i, word in enumerate(words):
        e = first + i
        block = philox_in_integers((e // 16, step, layer, 0), (seed, 0))
        assert word == block[e // 4 % 4] >> (16 * (e % 4)) & 0xFFFF


def test_words_from_any_place_are_the_same_words() -> None:
    all_words = random_words(64, seed=3)
    for first in range(0, 40, 7):
        np.testing.assert_array_equal(random_words(20, seed=3, first=first), all_words[first : first + 20])
    assert random_words(0, seed=3).shape == (0,)


def test_other_seed_step_or_layer_gives_other_words() -> None:
    settings = [{"seed": s, "step": t, "layer": k} for s in (0, 1, 2**32) for t in (0, 1) for k in (0, 1)]
    words = np.stack([random_words(1000, **s) for s in settings])
    assert len({row.tobytes() for row in words}) == len(settings)
    bits = np.unpackbits(words.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / sqrt(bits.size)


def mask(be: Backend, shape: tuple[int, int], p: float, step: int = 0, first: int = 0, seed: int = 7) -> np.ndarray:
    counter = be.zeros((), np.uint64)
    be.fill(counter, step)
    out = be.empty(shape, np.float64)
    be.dropout(be.asarray(np.ones(shape)), MaskStream(seed, 2, p, counter), first, out, be.empty(shape, np.float64))
    return be.to_host(out)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_mask_bits(backend: Backend, p: float) -> None:
    found = mask(backend, (5, 7), p, step=3)
    kept = random_words(35, seed=7, step=3, layer=2) < round((1 - p) * 2**16)
    np.testing.assert_array_equal(found, np.where(kept, 1 / (1 - p), 0).reshape(5, 7))


@pytest.mark.parametrize("first", [0, 5, 16, 4 * 8192 - 3])
@pytest.mark.parametrize("size", [1, 16, 4 * 8192, 70_001])
def test_array_expressions_draw_the_same_mask(size: int, first: int) -> None:
    """What a device without anything better does, over more than one chunk, and from any element on."""
    be = gb.get_backend("cpu")
    stream = MaskStream(2**64 - 1, 3, 0.3, np.array(2**40, np.uint64))
    found, expected = np.empty((1, size)), np.empty(size)
    stream.draw(expected, stream.step, first)
    stream.fill_mask(be, found, first)
    np.testing.assert_array_equal(found[0], expected)


def test_something_is_always_kept() -> None:
    assert MaskStream(0, 0, 0.9999999, np.zeros((), np.uint64)).threshold == 1
    assert MaskStream(0, 0, 0.0, np.zeros((), np.uint64)).threshold == 2**16


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
        x, out = backend.zeros((rows, 7), np.float64), backend.empty((rows, 7), np.float64)
        backend.dropout(x, stream, first * 7, out, x)
        np.testing.assert_array_equal(backend.to_host(out), whole[first : first + rows])


def test_host_generators_of_other_purpose_or_seed_are_others() -> None:
    draws = [host_generator(*key).random(4).tolist() for key in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (0, 0))]
    assert len({tuple(d) for d in draws}) == len(draws)
    assert host_generator(0, 0, 1).random(4).tolist() == draws[0]
