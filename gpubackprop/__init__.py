"""Backpropagation derived by hand, on an NVIDIA GPU through CuPy or on any CPU through NumPy: the same layer code on both.

import gpubackprop as gb

net = gb.mlp([784, 512, 10], activation="relu", loss="cross_entropy", seed=0)
gb.Trainer(net, gb.Adam(1e-3)).fit(x, y, epochs=5, batch_size=1024)
net.predict(x_test)
"""

from gpubackprop import testing
from gpubackprop.backend import choose_device, devices, get_backend
from gpubackprop.benchmark import benchmark
from gpubackprop.checkpoint import Checkpoint, load, load_checkpoint, save
from gpubackprop.errors import GpuBackpropError
from gpubackprop.gradcheck import gradcheck
from gpubackprop.layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from gpubackprop.network import Network
from gpubackprop.optimizers import LAMB, LARS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop
from gpubackprop.parity import check_parity
from gpubackprop.perceptron import mlp
from gpubackprop.training import Callback, EarlyStopping, History, Trainer, evaluate

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchNorm",
    "Callback",
    "Checkpoint",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "GpuBackpropError",
    "History",
    "Layer",
    "LayerNorm",
    "NAdam",
    "Network",
    "RAdam",
    "RMSprop",
    "Trainer",
    "benchmark",
    "check_parity",
    "choose_device",
    "devices",
    "evaluate",
    "get_backend",
    "gradcheck",
    "load",
    "load_checkpoint",
    "mlp",
    "save",
    "testing",
]

__version__ = "0.1.0"
