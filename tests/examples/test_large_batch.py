from __future__ import annotations

import pytest


def test_sizes_end_at_the_full_batch_and_accuracy_falls_with_the_steps(example, capsys):
    pytest.importorskip("sklearn")
    large_batch = example("large_batch")
    cells = large_batch.main(["--device", "cpu", "--data", "digits", "--epochs", "8"])
    assert "digits has 1,438 training rows" in capsys.readouterr().out
    assert len(cells) == 4 * 3
    by = {(c.recipe, c.size): c for c in cells}
    same = large_batch.RECIPES[0].name
    assert {size for _, size in by} == {128, 512, 1438}
    assert [by[same, size].steps for size in (128, 512, 1438)] == [8 * 12, 8 * 3, 8]
    assert by[same, 128].accuracy > by[same, 1438].accuracy
    assert by["LAMB + warm-up", 1438].accuracy > by[same, 1438].accuracy
    assert all(c.samples_per_second > 0 for c in cells)
