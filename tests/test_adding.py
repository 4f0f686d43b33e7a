"""What gpubackprop/README.md says of adding things: one of each is added to a copy of the package, in these files alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpubackprop

ROOT = Path(gpubackprop.__file__).parent

ACTIVATION = {
    "activations.py": [
        (
            "class Softsign(Activation):",
            """class Squareplus(Activation):
    name, recordable, saves = "squareplus", True, "slope"

    def forward(self, be, z, a):
        xp, root, t = be.xp, be.scratch(z), be.scratch(z, 1)
        xp.multiply(z, z, out=root)
        xp.add(root, 4.0, out=root)
        xp.sqrt(root, out=root)
        xp.add(z, root, out=t)
        if a is not z:
            xp.divide(t, root, out=z)
            xp.multiply(z, 0.5, out=z)
        xp.multiply(t, 0.5, out=a)


class Softsign(Activation):""",
        ),
        (" Softsign,", " Softsign, Squareplus,"),
    ],
    "backend/cuda/activation.cu": [
        (
            "struct Softsign {",
            """struct Squareplus {
    static constexpr bool from_output = false, is_identity = false;
    template <typename A> static __device__ A value(A x) { return (x + sqrt(x * x + A(4))) * A(0.5); }
    template <typename A> static __device__ A derivative(A x) { return A(0.5) + A(0.5) * x / sqrt(x * x + A(4)); }
};
struct Softsign {""",
        )
    ],
}
LOSS = {
    "losses.py": [
        (
            "class Poisson(_Elementwise):",
            """class Quartic(_Elementwise):
    recordable, name = True, "quartic"

    def terms(self, be, a, y, v):
        xp = be.xp
        xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        xp.multiply(v.d, v.d, out=v.t)
        xp.multiply(v.t, v.t, out=v.t)
        xp.multiply(v.t, 0.25, out=v.t)

    def slopes(self, be, a, y, v):
        xp = be.xp
        xp.multiply(v.d, v.d, out=v.t)
        xp.multiply(v.d, v.t, out=v.d)


class Poisson(_Elementwise):""",
        ),
        (" Poisson,", " Poisson, Quartic,"),
    ],
    "backend/cuda/loss.cu": [
        (
            "struct Poisson {",
            """struct Quartic {
    static constexpr bool over_outputs = true;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        const A d = a - y;
        slope = d * d * d;
        return A(0.25) * d * slope;
    }
};
struct Poisson {""",
        )
    ],
}
OPTIMIZER = {
    "optimizers/sgd.py": [
        (
            "class SGD(Optimizer):",
            """class SignSGD(Optimizer):
    def __init__(self, learning_rate=1e-3, **common):
        super().__init__(learning_rate, **common)

    def rule(self, be, p, g, state, h):
        self.add_decay(be, p, g, h)
        be.xp.sign(g, out=g)
        be.subtract_scaled(p, h[0], g)


class SGD(Optimizer):""",
        )
    ],
    "optimizers/__init__.py": [("import SGD\n", "import SGD, SignSGD\n"), ("(SGD,", "(SGD, SignSGD,")],
    "backend/cuda/optimizer.cu": [
        (
            "// Rule of Adamax(",
            """// Rule of SignSGD(): states none; scalars lr
template <typename A> struct SignSGD {
    static constexpr int states = 0, scalars = 1;
    A lr;
    __device__ SignSGD(const double* h, double, double, double) : lr(A(h[0])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A*) const { p -= lr * (g > A(0) ? A(1) : g < A(0) ? A(-1) : g); }
};
// Rule of Adamax(""",
        )
    ],
    "__init__.py": [('"optimizers": "LAMB LARS SGD ', '"optimizers": "LAMB LARS SGD SignSGD ')],
}
DATA_SET = {"data/builtin.py": [('    "wine": (', '    "flowers": ("load_iris", "species"),\n    "wine": (')]}
OPTION = {
    "pipeline/settings.py": [
        ("    dropout: float | None\n", "    dropout: float | None\n    tries: int\n"),
        ("    l1: float = _option(", '    tries: int = _option(3, "How often.", least=1)\n    l1: float = _option('),
    ]
}
TRIED = """
import numpy as np
import pytest
import gpubackprop as gb
from gpubackprop.backend.cuda import registry
from tests.cuda.stand_in import gpu, shim
from typer.testing import CliRunner


@pytest.mark.parametrize("device", ["cpu", "strict", "cuda"])
def test_all(device, gpu, monkeypatch):
    if device != "cuda":
        monkeypatch.undo()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    found = {}
    for where in ("cpu", device):
        net = gb.mlp([3, 8, 2], activation="squareplus", loss="quartic", device=where, seed=1)
        history = gb.Trainer(net, gb.SignSGD(0.01)).fit(x, y, epochs=15, batch_size=8)
        assert history["loss"][-1] < 0.7 * history["loss"][0]
        found[where] = net.get_weights()
    for name, array in found["cpu"].items():
        np.testing.assert_allclose(found[device][name], array, atol=2e-2)
    assert gb.gradcheck(gb.mlp([3, 8, 2], activation="squareplus", loss="quartic", dtype="float64", device="cpu"), x[:4], y[:4])
    assert registry.activation(net.layers[0].activation) == "Squareplus"
    assert registry.elementwise_loss(net.loss_function) is not None
    assert registry.update_rule(gb.SignSGD(0.1)) is not None


def test_data_set_and_option():
    import gpubackprop.cli as cli

    assert len(gb.data.load("flowers").x) == 150
    shown = CliRunner().invoke(cli.app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "--tries" in shown and "How often." in shown and "flowers" in shown
"""


def test_one_of_each(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    shutil.copytree(ROOT, tmp_path / "gpubackprop", ignore=shutil.ignore_patterns("__pycache__"))
    for thing, most in ((ACTIVATION, 2), (LOSS, 2), (OPTIMIZER, 4), (DATA_SET, 1), (OPTION, 1)):
        assert len(thing) <= most
        for file, changes in thing.items():
            path = tmp_path / "gpubackprop" / file
            text = path.read_text(encoding="utf-8")
            for old, new in changes:
                assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    (tmp_path / "test_tried.py").write_text(TRIED, encoding="utf-8")
    import os

    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT.parent)])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path / "test_tried.py"), "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
