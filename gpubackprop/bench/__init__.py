"""Is the GPU faster for this network, and from which batch size on? Contenders timed against each other in one run."""

from gpubackprop.bench.crossover import Crossover, advice, crossover, crossovers
from gpubackprop.bench.results import Result
from gpubackprop.bench.runner import benchmark

__all__ = ["Crossover", "Result", "advice", "benchmark", "crossover", "crossovers"]
