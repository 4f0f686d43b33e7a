"""`gpubackprop devices`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from gpubackprop.backend.select import devices as found
from gpubackprop.cli.output import Json, print_json
from gpubackprop.terminal import Terminal


def devices(as_json: Json = False) -> None:
    """List the devices that networks can run on, and why one cannot be used."""
    if as_json:
        print_json({"devices": [{**vars(device), "working": device.working} for device in found()]})
        return
    table = Table("device", "works", "what it is", "memory", box=SIMPLE_HEAD)
    for device in found():
        memory = f"{device.memory / 2**30:.1f} GiB" if device.memory else ""
        what = device.description if device.working else f"{device.description}: {device.reason}"
        table.add_row(device.name, "yes" if device.working else "no", escape(what), memory)
    Terminal().print(table)
