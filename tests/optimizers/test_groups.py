"""Parameters with numbers of their own, and parameters that are not trained."""

from __future__ import annotations

import copy
import operator
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError
from gpubackprop.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.small import assert_same_bits, make_data

N, SIZE = 26, 8
GROUPS = [
    {"parameters": "0.*", "learning_rate_factor": 0.1, "weight_decay": 0.0},
    {"parameters": ["*.bias"], "weight_decay": 0.3},
    {"parameters": "2.weight", "trainable": False},
]


def network(device: Any = "cpu", **options: Any) -> gb.Network:
    layers = [gb.Dense(5, 6, "tanh"), gb.LayerNorm(6), gb.Dense(6, 6, "tanh"), gb.Dense(6, 3)]
    return gb.Network(layers, **{"loss": "cross_entropy", "device": device, "dtype": "float64", "seed": 2, **options})


def fitted(net: gb.Network, optimizer: gb.optimizers.Optimizer, **options: Any) -> dict[str, np.ndarray]:
    x, y = make_data(N, 5, 3, "cross_entropy")
    gb.Trainer(net, optimizer).fit(x, y, **{"epochs": 3, "batch_size": SIZE, **options})
    return net.get_weights()


def torch_weights(kind: str, groups: list[dict[str, Any]], **options: Any) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    net = network()
    start = {k: torch.tensor(v, requires_grad=True) for k, v in net.get_weights().items()}
    W = dict(start)
    made, left = [], set(start)
    for group in groups:
        from fnmatch import fnmatchcase

        patterns = [group["parameters"]] if isinstance(group["parameters"], str) else group["parameters"]
        names = sorted(n for n in left if any(fnmatchcase(n, p) for p in patterns))
        left -= set(names)
        if group.get("trainable", True):
            own = {"lr": 0.05 * group.get("learning_rate_factor", 1.0)}
            made.append(
                {"params": [start[n] for n in names], **own, **{k: v for k, v in group.items() if k == "weight_decay"}}
            )
    made.append({"params": [start[n] for n in sorted(left)]})
    rule = getattr(torch.optim, kind)(made, lr=0.05, weight_decay=0.01, **options)
    x, y = (torch.tensor(a) for a in make_data(N, 5, 3, "cross_entropy"))
    for _ in range(3):
        for rows in torch.split(torch.arange(N), SIZE):
            a = torch.tanh(x[rows] @ W["0.weight"] + W["0.bias"])
            a = torch.nn.functional.layer_norm(a, (6,), W["1.gamma"], W["1.beta"])
            a = torch.tanh(a @ W["2.weight"] + W["2.bias"])
            loss = torch.nn.functional.cross_entropy(a @ W["3.weight"] + W["3.bias"], y[rows])
            rule.zero_grad()
            loss.backward()
            for name, w in start.items():
                if not any(w is p for g in made for p in g["params"]):
                    w.grad = None
                    assert name == "2.weight"
            rule.step()
    return {k: v.detach().numpy() for k, v in start.items()}


@pytest.mark.parametrize("how", [{}, {"device": "strict"}, {"capture": False}, {"micro_batch_size": 3}], ids=str)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {}), ("RMSprop", {}), ("NAdam", {})],
    ids=str,
)
def test_groups_as_in_pytorch(kind: str, options: dict[str, Any], how: dict[str, Any]) -> None:
    expected = torch_weights(kind, GROUPS, **options)
    how = dict(how)
    fit = {k: how.pop(k) for k in list(how) if k == "micro_batch_size"}
    own = {"alpha": 0.99} if kind == "RMSprop" else {}
    rule = get_optimizer(kind, learning_rate=0.05, weight_decay=0.01, groups=GROUPS, **options)
    found = fitted(network(**how), rule, shuffle=False, **fit)
    assert own is not None
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}], ids=str)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_layer_that_is_not_trained_stays_as_it_is(name: str, clip: dict[str, Any]) -> None:
    """Also after steps that have filled the state of its parameters; the others train as if it were not there."""
    nets = [network(l2=0.1), network(l2=0.1)]
    rules = [get_optimizer(name, weight_decay=0.1, **clip) for _ in nets]
    before = [fitted(net, rule) for net, rule in zip(nets, rules, strict=True)]
    assert_same_bits(*before)
    for layer in nets[0].layers[:2]:
        layer.trainable = False
    x, y = make_data(N, 5, 3, "cross_entropy")
    for _ in range(3):
        nets[0].train_step(x, y, rules[0])
    now = nets[0].get_weights()
    for key, array in now.items():
        assert np.array_equal(array, before[0][key]) == (key[0] in "01"), key
    nets[0].layers[0].trainable = nets[0].layers[1].trainable = True
    nets[0].train_step(x, y, rules[0])
    after = nets[0].get_weights()
    assert all(not np.array_equal(after[key], now[key]) for key in now)


def test_only_what_is_trained_is_clipped() -> None:
    """The norm is that of PyTorch's parameters that require a gradient."""
    net = network()
    net.layers[3].trainable = False
    x, y = make_data(N, 5, 3, "cross_entropy")
    _, gradients = net.loss_and_gradients(x, y)
    rule = gb.SGD(1e-9, clip_norm=1e9)
    net.train_step(x, y, rule)
    wanted = np.sqrt(sum((g**2).sum() for k, g in gradients.items() if k[0] != "3"))
    assert float(net.backend.to_host(rule.norm)) == pytest.approx(wanted, rel=1e-9)
    assert np.abs(gradients["3.weight"]).max() > 0


def test_a_group_that_is_not_trained_is_a_layer_that_is_not() -> None:
    nets = [network(), network()]
    nets[0].layers[2].trainable = False
    found = [
        fitted(nets[0], gb.Adam(0.05, clip_norm=0.2)),
        fitted(nets[1], gb.Adam(0.05, clip_norm=0.2, groups=[{"parameters": "2.*", "trainable": False}])),
    ]
    assert_same_bits(*found)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb"])
@pytest.mark.parametrize("grouped", [True, False])
def test_on_a_gpu(gpu: Any, rule: str, grouped: bool) -> None:  # noqa: F811
    found = []
    for device in ("cpu", "cuda"):
        net = network(device, dtype="float32")
        net.layers[1].trainable = False
        options = {"momentum": 0.9} if rule == "sgd" else {}
        groups = GROUPS if grouped else []
        found.append(fitted(net, get_optimizer(rule, weight_decay=0.1, learning_rate=0.01, groups=groups, **options)))
    assert np.array_equal(found[1]["1.gamma"], network(dtype="float32").get_weights()["1.gamma"])
    for name, want in found[0].items():
        np.testing.assert_allclose(found[1][name], want, rtol=2e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(gpu: Any, precision: str) -> None:  # noqa: F811
    pytest.importorskip("ml_dtypes")
    net = network("cuda", dtype="float32", precision=precision)
    net.layers[2].trainable = False
    before = net.get_weights()
    x, y = make_data(N, 5, 3, "cross_entropy")
    history = gb.Trainer(net, gb.Adam(0.02)).fit(x, y, epochs=30, batch_size=N)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    after = net.get_weights()
    assert np.array_equal(after["2.weight"], before["2.weight"])
    assert not np.array_equal(after["0.weight"], before["0.weight"])


def test_copies_and_checkpoints_go_on(tmp_path: Path) -> None:
    net, rule = network(), gb.Adam(0.05, groups=GROUPS, schedule=gb.schedules.Cosine(total=40))
    net.layers[1].trainable = False
    fitted(net, rule)
    gb.save(tmp_path / "net.safetensors", net, optimizer=rule)
    loaded = gb.load_checkpoint(tmp_path / "net.safetensors", device="cpu")
    copied = copy.deepcopy((net, rule))
    assert [layer.trainable for layer in loaded.net.layers] == [True, False, True, True]
    x, y = make_data(N, 5, 3, "cross_entropy")
    for other, own in ((net, rule), (loaded.net, loaded.optimizer), copied):
        other.train_step(x, y, own)
        assert_same_bits(other.get_weights(), net.get_weights())


def test_the_whole_network_cannot_be_left_out() -> None:
    net = network()
    for layer in net.layers:
        layer.trainable = False
    with pytest.raises(ArgumentError, match="no layer is trainable"):
        net.train_step(*make_data(N, 5, 3, "cross_entropy"), gb.Adam())
    assert "not trained" in net.summary()


@pytest.mark.parametrize(
    ("groups", "kind", "message"),
    [
        ([{"parameters": "0.*", "lr": 1}], ArgumentError, "learning_rate_factor"),
        ([{"parameters": "0.*", "learning_rate_factor": 0}], ArgumentError, "above 0"),
        ([{"parameters": "0.*", "weight_decay": -1}], ArgumentError, "weight_decay"),
        ([{"parameters": 3}], ArgumentTypeError, "a name, a pattern"),
        ([{}], ArgumentTypeError, "a name, a pattern"),
        (["0.*"], ArgumentTypeError, "must be a dict"),
        ([{"parameters": "7.*"}], ArgumentError, "no parameter is called"),
    ],
)
def test_groups_that_cannot_be(groups: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        network().train_step(*make_data(N, 5, 3, "cross_entropy"), gb.Adam(groups=groups))


def test_groups_cannot_change_unseen(tmp_path: Path) -> None:
    """An optimizer that trains would go on with the old numbers, while its settings say the new ones."""
    net, rule = network(), gb.Adam(0.05, groups=GROUPS)
    before = repr(rule)
    for _ in range(2):
        for change in (
            lambda group: group.update(learning_rate_factor=2.0),
            lambda group: group.setdefault("weight_decay", 2.0),
            lambda group: operator.setitem(group, "learning_rate_factor", 2.0),
            lambda group: operator.ior(group, {"trainable": False}),
            lambda group: group.pop("parameters"),
            lambda group: group.clear(),
        ):
            with pytest.raises(ArgumentError, match="groups of an optimizer cannot be changed"):
                change(rule.groups[0])
        with pytest.raises(AttributeError):
            rule.groups.append({})  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            rule.groups[0]["parameters"].append("1.*")
        assert repr(rule) == before
        fitted(net, rule)
    for other in (copy.copy(rule), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        assert other.groups == rule.groups
        assert repr(other) == before
    gb.save(tmp_path / "net.safetensors", net, optimizer=rule)
    assert gb.load_checkpoint(tmp_path / "net.safetensors", device="cpu").optimizer.settings() == rule.settings()


def test_what_a_checkpoint_says_of_training_is_true_or_false(tmp_path: Path) -> None:
    from gpubackprop.files.manifest import build_layer

    with pytest.raises(CheckpointError, match="trainable"):
        build_layer({"type": "Dense", "settings": gb.Dense(2, 3).settings(), "trainable": 1}, {})


@pytest.mark.parametrize("how", ["frozen", "groups", "weights alone"])
def test_a_rule_that_gets_all_parameters_at_once_must_ask(how: str) -> None:
    class Normalised(Optimizer):
        """p - eta g / |g|, over all parameters together."""

        elementwise = False

        def rule(self, be: Any, p: Any, g: Any, state: Any, h: Any) -> None:
            p -= h[0] * g / float(np.linalg.norm(g))

    options: dict[str, Any] = {
        "frozen": {},
        "groups": {"groups": [{"parameters": "0.*", "trainable": False}]},
        "weights alone": {"weight_decay": 0.1, "decay": "weights"},
    }[how]
    net, (x, y) = gb.mlp([3, 4, 2], device="cpu", capture=False), make_data(6, 3, 2)
    net.layers[0].trainable = how != "frozen"
    before = net.get_weights()
    with pytest.raises(ArgumentError, match=r"ask self\.of"):
        net.train_step(x, y, Normalised(0.1, **options))
    assert all(np.array_equal(before[name], array) for name, array in net.get_weights().items())
    Normalised.asks_of = True
    net.train_step(x, y, Normalised(0.1, **options))
