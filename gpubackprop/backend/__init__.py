"""Devices: what they must be able to do, and what that means (`base`), and which there are (`select`)."""
