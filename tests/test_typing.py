"""What a type checker says of calls, right and wrong: every option of a public name is known to it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import gpubackprop as gb
from gpubackprop.optimizers import OPTIMIZERS
from gpubackprop.optimizers.base import Common, Optimizer
from gpubackprop.pipeline.settings import Settings, SettingsOptions

WRONG = (
    'gb.mlp([2, 3], los="cross_entropy")',
    "gb.mlp([2, 3], activation=3)",
    "gb.Network([gb.Dense(2, 3)], sed=1)",
    "gb.Dense(2, 3, biass=True)",
    "gb.Adam(weightdecay=0.1)",
    "gb.AdamW(1e-3, beta=(0.9, 0.99))",
    'gb.SGD(momentum="much")',
    "gb.LAMB(eps=1e-6, trust=1)",
    "gb.RMSprop(groups=3)",
    "gb.Trainer(net, optimiser='adam')",
    "gb.Trainer(net).fit(x, y, epoch=3)",
    "gb.Trainer(net).fit(x, y, batch_size='all')",
    "gb.Trainer(net).fit(x, y, metrics='f1_score', verbos=True)",
    "gb.Trainer(net).fit(x, y, validation_split='some')",
    "gb.Trainer(net).fit(x, y, verbose='yes')",
    "gb.Trainer(net).fit(x, y, metrics=[3])",
    "gb.evaluate(net, x, y, metric=['f1'])",
    "gb.Trainer(net).fit(x, y).plot(file='x.png')",
    "gb.EarlyStopping(patiance=3)",
    "gb.schedules.Cosine(warm=3)",
    "gb.losses.Huber(width=1)",
    "gb.losses.CrossEntropy(smoothing=0.1)",
    "gb.activations.ELU(alfa=1.0)",
    "gb.train_run('digits', epoch=3)",
    "gb.save('x', net, optimiser=None)",
    "gb.Checkpoints('x', evry='1 step')",
    "gb.evaluate(net, x, y, batch=3)",
    "net.train_step(x, y, gb.Adam(), micro_batch=3)",
    "net.loss(x, y, weights=x)",
)
RIGHT = (
    'gb.mlp([2, 3], loss="cross_entropy", activation=gb.activations.ELU(alpha=0.5), dropout=0.1, l2=1e-3)',
    'gb.Adam(1e-3, betas=(0.9, 0.99), eps=1e-7, weight_decay=0.1, clip_norm=1.0, schedule="cosine")',
    'gb.AdamW(weight_decay=0.2, groups=[{"parameters": "*.bias", "weight_decay": 0.0}])',
    "gb.SGD(0.1, momentum=0.9, nesterov=True, decay='weights')",
    "gb.LAMB(eps=1e-6, betas=(0.9, 0.99), decoupled_weight_decay=True)",
    "gb.RMSprop(alpha=0.9, centered=True, clip_value=None)",
    "gb.Trainer(net, gb.Adam(), callbacks=[gb.EarlyStopping(mode='max')]).fit(x, y, epochs=3, sample_weight=x)",
    "gb.train_run('digits', epochs=3, layers=[8], learning_rate=1e-3)",
    "gb.Trainer(net).fit(x, y, metrics=['f1', lambda y, p: float(p.max())], validation_split=0.2, verbose='auto').plot()",
    "float(net.train_step(x, y, gb.Adam(), micro_batch_size=3))",
)
HEAD = "import numpy as np\nimport gpubackprop as gb\nx = y = np.zeros((2, 2))\nnet = gb.mlp([2, 3])\n"


def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "calls.py"
    file.write_text(HEAD + "\n".join((*WRONG, *RIGHT)) + "\n", encoding="utf-8")
    told, trouble, _ = api.run([str(file), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"])
    assert not trouble
    first = HEAD.count("\n")
    found = {int(line.split(":")[1]) - first - 1 for line in told.splitlines() if ": error:" in line}
    assert found == set(range(len(WRONG))), [
        *((*WRONG, *RIGHT)[i] for i in found ^ set(range(len(WRONG)))),
        told,
    ]


def test_no_public_signature_takes_anything() -> None:
    """No `**options: Any`: the constructors and functions of `gb.` name all that they take."""
    loose = []
    for name in gb.__all__:
        thing = getattr(gb, name)
        for part in vars(thing).values() if inspect.ismodule(thing) else [thing]:
            if not callable(part) or not getattr(part, "__module__", "").startswith("gpubackprop"):
                continue
            made = part.__init__ if inspect.isclass(part) else part
            try:
                parameters = inspect.signature(made).parameters.values()
            except (TypeError, ValueError):
                continue
            loose += [
                f"{name}.{getattr(part, '__name__', part)}"
                for p in parameters
                if p.kind is p.VAR_KEYWORD
                and p.annotation in ("Any", inspect.Parameter.empty)
                and inspect.isfunction(made)
            ]
    assert sorted(set(loose)) == ["schedules.get_schedule"], "the options of any schedule"


def test_the_typed_options_are_those_that_are_taken() -> None:
    assert SettingsOptions.__annotations__.keys() == {f.name for f in fields(Settings)}
    common = set(inspect.signature(Optimizer.__init__).parameters) - {"self", "learning_rate"}
    assert Common.__annotations__.keys() == common
    for optimizer in OPTIMIZERS.values():
        with pytest.raises(TypeError, match="weightdecay"):
            optimizer(weightdecay=0.1)  # type: ignore[call-arg]
