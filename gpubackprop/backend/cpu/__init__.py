"""The CPU: NumPy, with a step recorded once and replayed, and compiled to machine code where Numba is installed."""
