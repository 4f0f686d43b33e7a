"""The proofs prove something: each of these bugs in the library's source is noticed by the check that is named with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.planted.bugs import BUGS, Bug
from tests.planted.checks import CHECKS, WITH_TORCH


def check(name: str, request: pytest.FixtureRequest) -> Any:
    if name in WITH_TORCH:
        return partial(WITH_TORCH[name], torch=request.getfixturevalue("torch"))
    return CHECKS[name]


@pytest.fixture(autouse=True)
def _torch_in_float64(request: pytest.FixtureRequest) -> Any:
    """NAdam's running product has PyTorch's default type."""
    name = getattr(getattr(request.node, "callspec", None), "params", {})
    bug = name.get("bug")
    wanted = bug.caught_by if bug else name.get("name")
    if wanted not in WITH_TORCH:
        yield
        return
    torch = request.getfixturevalue("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", sorted({bug.caught_by for bug in BUGS}))
def test_the_library_as_it_is_passes(name: str, request: pytest.FixtureRequest) -> None:
    check(name, request)()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_is_caught(bug: Bug, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = check(bug.caught_by, request)
    bug.plant(monkeypatch)
    # Only a wrong number counts: a bug that crashes would need no proof.
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        proof()


def test_there_are_at_least_40_in_different_places() -> None:
    assert len({(bug.where, bug.old, bug.new) for bug in BUGS}) == len({bug.name for bug in BUGS}) == len(BUGS) >= 40
