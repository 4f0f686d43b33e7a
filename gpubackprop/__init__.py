"""Backpropagation derived by hand, on an NVIDIA GPU through CuPy or on any CPU through NumPy: the same layer code on both.

import gpubackprop as gb

net = gb.mlp([784, 512, 10], activation="relu", loss="cross_entropy", seed=0)
gb.Trainer(net, gb.Adam(1e-3)).fit(x, y, epochs=5, batch_size=1024)
net.predict(x_test)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpubackprop import activations as activations
    from gpubackprop import data as data
    from gpubackprop import distributed as distributed
    from gpubackprop import initializers as initializers
    from gpubackprop import losses as losses
    from gpubackprop import metrics as metrics
    from gpubackprop import testing as testing
    from gpubackprop.backend.select import choose_device as choose_device
    from gpubackprop.backend.select import devices as devices
    from gpubackprop.backend.select import get_backend as get_backend
    from gpubackprop.bench.runner import benchmark as benchmark
    from gpubackprop.data.dataset import Dataset as Dataset
    from gpubackprop.data.pieces import open_stream as open_stream
    from gpubackprop.errors import GpuBackpropError as GpuBackpropError
    from gpubackprop.files.checkpoint import Checkpoint as Checkpoint
    from gpubackprop.files.checkpoint import load as load
    from gpubackprop.files.checkpoint import load_checkpoint as load_checkpoint
    from gpubackprop.files.checkpoint import save as save
    from gpubackprop.interop.estimators import MLPClassifier as MLPClassifier
    from gpubackprop.interop.estimators import MLPRegressor as MLPRegressor
    from gpubackprop.interop.onnx import to_onnx as to_onnx
    from gpubackprop.interop.torch import load_torch as load_torch
    from gpubackprop.interop.torch import to_torch_state as to_torch_state
    from gpubackprop.layers import Activation as Activation
    from gpubackprop.layers import BatchNorm as BatchNorm
    from gpubackprop.layers import Dense as Dense
    from gpubackprop.layers import Dropout as Dropout
    from gpubackprop.layers import Layer as Layer
    from gpubackprop.layers import LayerNorm as LayerNorm
    from gpubackprop.layers import PReLU as PReLU
    from gpubackprop.layers import Residual as Residual
    from gpubackprop.layers import RMSNorm as RMSNorm
    from gpubackprop.network.network import Network as Network
    from gpubackprop.network.perceptron import mlp as mlp
    from gpubackprop.network.stream import Stream as Stream
    from gpubackprop.optimizers import LAMB as LAMB
    from gpubackprop.optimizers import LARS as LARS
    from gpubackprop.optimizers import SGD as SGD
    from gpubackprop.optimizers import Adadelta as Adadelta
    from gpubackprop.optimizers import Adagrad as Adagrad
    from gpubackprop.optimizers import Adam as Adam
    from gpubackprop.optimizers import Adamax as Adamax
    from gpubackprop.optimizers import AdamW as AdamW
    from gpubackprop.optimizers import NAdam as NAdam
    from gpubackprop.optimizers import RAdam as RAdam
    from gpubackprop.optimizers import RMSprop as RMSprop
    from gpubackprop.optimizers import schedules as schedules
    from gpubackprop.pipeline.encoder import ColumnChoices as ColumnChoices
    from gpubackprop.pipeline.model import load_run as load_run
    from gpubackprop.pipeline.runs import resume_run as resume_run
    from gpubackprop.pipeline.runs import train_run as train_run
    from gpubackprop.proofs.gradcheck import gradcheck as gradcheck
    from gpubackprop.proofs.parity import check_parity as check_parity
    from gpubackprop.training.callbacks import Callback as Callback
    from gpubackprop.training.callbacks import EarlyStopping as EarlyStopping
    from gpubackprop.training.checkpoints import Checkpoints as Checkpoints
    from gpubackprop.training.evaluation import evaluate as evaluate
    from gpubackprop.training.history import History as History
    from gpubackprop.training.large_batches import gradient_noise_scale as gradient_noise_scale
    from gpubackprop.training.log_file import LogFile as LogFile
    from gpubackprop.training.trainer import Trainer as Trainer

# Where each public name lives; loaded when it is first asked for, so that the bare import stays fast.
_HOMES = {
    "backend.select": "choose_device devices get_backend",
    "bench.runner": "benchmark",
    "data.dataset": "Dataset",
    "data.pieces": "open_stream",
    "errors": "GpuBackpropError",
    "files.checkpoint": "Checkpoint load load_checkpoint save",
    "interop.estimators": "MLPClassifier MLPRegressor",
    "interop.onnx": "to_onnx",
    "interop.torch": "load_torch to_torch_state",
    "layers": "Activation BatchNorm Dense Dropout Layer LayerNorm PReLU RMSNorm Residual",
    "network.network": "Network",
    "network.perceptron": "mlp",
    "network.stream": "Stream",
    "optimizers": "LAMB LARS SGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop",
    "pipeline.encoder": "ColumnChoices",
    "pipeline.model": "load_run",
    "pipeline.runs": "resume_run train_run",
    "proofs.gradcheck": "gradcheck",
    "proofs.parity": "check_parity",
    "training.callbacks": "Callback EarlyStopping",
    "training.checkpoints": "Checkpoints",
    "training.evaluation": "evaluate",
    "training.history": "History",
    "training.large_batches": "gradient_noise_scale",
    "training.log_file": "LogFile",
    "training.trainer": "Trainer",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
# Modules that are public themselves: each a table of what can be chosen.
_MODULES = {
    "activations": "activations",
    "data": "data",
    "distributed": "distributed",
    "initializers": "initializers",
    "losses": "losses",
    "metrics": "metrics",
    "schedules": "optimizers.schedules",
    "testing": "testing",
}

__all__ = sorted([*_HOME, *_MODULES])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"gpubackprop.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'gpubackprop' has no attribute {name!r}")
    value = getattr(import_module(f"gpubackprop.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
