"""Devices: what they must be able to do (`base`), what that means (`array_backend`), and which there are (`select`)."""
