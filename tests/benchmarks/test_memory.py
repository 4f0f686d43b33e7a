"""What a fit keeps in memory, small."""

from __future__ import annotations

import pytest

from benchmarks import memory


def test_memory_of_a_small_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.CASES, "small", ((16, 8, 4), 64, 32, "adam"))
    result = memory.case("small")
    assert result["measured"] >= 0
    # x, y as int64, weights with their gradients and two moments, and the workspace.
    padded = 16 * 8 + 16 + 8 * 4 + 16
    assert result["expected"] == 64 * 16 * 4 + 64 * 8 + 4 * padded * 4 + result["workspace"]
