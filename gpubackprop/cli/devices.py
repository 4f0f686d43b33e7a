"""`gpubackprop devices`."""

from __future__ import annotations

from gpubackprop.backend.select import devices as found
from gpubackprop.cli.output import Json, print_json, table
from gpubackprop.terminal import Terminal


def devices(as_json: Json = False) -> None:
    """List the devices that networks can run on, and why one cannot be used."""
    if as_json:
        print_json({"devices": [{**vars(device), "working": device.working} for device in found()]})
        return
    rows = []
    for device in found():
        memory = f"{device.memory / 2**30:.1f} GiB" if device.memory else ""
        what = device.description if device.working else f"{device.description}: {device.reason}"
        rows.append((device.name, "yes" if device.working else "no", what, memory))
    Terminal().print(table(("device", "works", "what it is", "memory"), rows))
