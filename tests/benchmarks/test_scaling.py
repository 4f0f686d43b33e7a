"""The model of scaling, where it can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scaling import ASSUMED, BUCKETS, JOBS, NETWORKS, Job, Link


def test_a_ring() -> None:
    link = Link(bandwidth=100.0, latency=2.0)
    assert scaling.ring(1000, 1, link) == 0
    # Two halves there and two back, of 500 bytes and a message each; then, of many, twice the whole.
    assert scaling.ring(1000, 2, link) == 2 * (2 + 5)
    assert scaling.ring(1000, 1000, Link(100.0, 0.0)) == pytest.approx(2 * 10, rel=2e-3)


def test_nodes_send_an_eighth_of_the_sum_each() -> None:
    inside, between = Link(100.0, 0.0), Link(10.0, 1.0)
    assert scaling.hierarchical(800, 8, inside, between) == scaling.ring(800, 8, inside)
    assert scaling.hierarchical(800, 16, inside, between) == scaling.ring(800, 8, inside) + 2 * (1 + 5)


def test_what_shows_of_an_overlapped_sum() -> None:
    assert scaling.exposed(1.0, 30.0) == 1 / BUCKETS
    assert scaling.exposed(30.0, 3.0) == pytest.approx(28)


def test_where_the_sum_takes_over() -> None:
    job = Job(parameters=10**9, rows=1000, per_row=1e-3, fixed=0.0)
    found = scaling.on_paper(job, "NVLink among all", strong=True)
    over = found["all-reduce takes over at"]
    for row in found["table"]:
        assert (row["allreduce"] > row["compute"]) == (row["gpus"] >= over)
        assert row["step"] >= row["step with overlap"] >= row["compute"]
    assert found["table"][0]["efficiency"] == 1
    weak = scaling.on_paper(job, "NVLink among all", strong=False)
    assert weak["all-reduce takes over at"] is None


def test_the_model_beside_what_was_measured() -> None:
    alone, together = {"100": 2.0, "200": 3.0}, {"100": 4.0, "200": 5.0}
    measured = {"side by side": {"2": alone}, "together": {"2": together}, "allreduce": {"2": {"8": 1.5, "16": 2.5}}}
    found = scaling.validated(measured, size=12)
    assert [row["model"] for row in found] == pytest.approx([4.0, 5.0])
    assert [row["ratio"] for row in found] == pytest.approx([1.0, 1.0])


def test_a_line_heeds_small_times_as_much_as_large_ones() -> None:
    assert scaling.line({"0": 1e-6, "10": 2.1e-5}) == pytest.approx((1e-6, 2e-6))


def test_steps_are_measured_alone_too() -> None:
    found = scaling.measure_steps((8, 16), (4, 3), steps=2, together=True)
    assert set(found) == {"8", "16"}
    assert all(np.isfinite(v) and v > 0 for v in found.values())


def test_every_number_of_a_gpu_says_that_it_is_an_assumption() -> None:
    content = json.loads((scaling.RESULTS / "scaling.json").read_text())
    assert content["GPUs"]["label"] == ASSUMED
    parts = content["GPUs"]["links"], content["GPUs"]["jobs"], content["steps on GPUs"]
    assert {entry["label"] for part in parts for entry in part.values()} == {ASSUMED}
    assert len(content["steps on GPUs"]) == len(JOBS) * len(NETWORKS) * 2
    for row in content["this machine"]["model"]:
        assert row["ratio"] == pytest.approx(row["model"] / row["measured"])
