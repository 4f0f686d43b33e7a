"""The CUDA device. Everything that imports CuPy is in here, and is imported only when that device is asked for."""
