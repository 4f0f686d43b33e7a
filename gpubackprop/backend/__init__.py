"""Devices: what they must be able to do (`base`), what that means (`array_backend`), and which there are (`select`)."""

from gpubackprop.backend.base import Backend, DeviceInfo
from gpubackprop.backend.select import choose_device, devices, fallback_reason, get_backend

__all__ = ["Backend", "DeviceInfo", "choose_device", "devices", "fallback_reason", "get_backend"]
