"""Proofs that the numbers are right: gradient checks, parity of devices, every matrix of a step shown."""
