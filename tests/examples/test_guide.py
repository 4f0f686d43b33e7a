"""Every page of the guide runs, and prints what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.distributed.launching import MPIEXEC

GUIDE = Path(__file__).parents[2] / "examples" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
NEEDS = {
    "2_": ["pyarrow"],
    "7_": ["sklearn"],
    "8_": ["onnx", "onnxruntime", "scipy", "torch"],
    "9_": ["sklearn", "matplotlib"],
    "10": ["mpi4py"],
}


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_guide", GUIDE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_says(page: Path) -> None:
    for library in NEEDS.get(page.name[:2], []):
        pytest.importorskip(library)
    if page.name.startswith("10") and MPIEXEC is None:
        pytest.skip("no mpiexec here")
    text = page.read_text(encoding="utf-8")
    assert "```text" in text
    assert maker().filled(text) == text


def test_there_are_pages() -> None:
    assert len(PAGES) == 11
