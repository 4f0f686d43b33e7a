"""Is the GPU faster for this network, and from which batch size on? Contenders timed against each other in one run."""
