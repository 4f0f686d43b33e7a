"""The subject of a proof: a network and a few rows, from a data set and settings or from a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gpubackprop.data import load
from gpubackprop.network.network import Network
from gpubackprop.pipeline.model import load_run
from gpubackprop.pipeline.preparation import Part
from gpubackprop.pipeline.run_folder import MODEL
from gpubackprop.pipeline.runs import prepare
from gpubackprop.pipeline.settings import Settings
from gpubackprop.random import host_generator


def is_run(data: str) -> bool:
    """Whether this is a run folder, or its .safetensors file."""
    return Path(data).suffix == ".safetensors" or Path(data, MODEL).exists()


def subject(
    data: str, settings: Settings, rows: int, target: str | None = None, task: str = "auto", folder: str | None = None
) -> tuple[Network, np.ndarray, np.ndarray]:
    """(network, x, y) with `rows` rows of the data, drawn from the seed and prepared as for training.

    data: a run folder (or its .safetensors file), whose network and data set are taken and whose settings count; or a data
    set, for which a network is made with `settings`. Raises what `load` and `load_run` raise.
    """
    if is_run(data):
        model = load_run(data, settings.device)
        loaded = model.load_data(
            model.source("name a data set"), target=target, folder=folder or model.data["folder"], same=True
        )
        x, y = model.match(replace(loaded, x_test=None, y_test=None))
    else:
        loaded = load(data, target=target, task=task, folder=folder)
        x, y = loaded.x, loaded.y
        origin = {"source": data, "target": target, "folder": folder}
        model = prepare(loaded, Part(x, y, "all rows"), settings.completed(loaded), origin)
    chosen = host_generator(settings.seed, 13).permutation(len(x))[:rows]
    return model.network, model.prepare(x[chosen]), model.prepare_targets(y[chosen])
