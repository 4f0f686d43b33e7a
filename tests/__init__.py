"""The tests. They run in as many processes as there are cores, each with one thread for its products: those of small networks
are not faster with more, and many times slower where the threads of several processes wait for each other."""

import os

# Before NumPy is loaded.
for library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
