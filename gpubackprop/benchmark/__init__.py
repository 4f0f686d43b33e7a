"""Is the GPU faster for this network, and from which batch size on? Contenders timed against each other in one run."""

from gpubackprop.benchmark.crossover import Crossover, advice, crossover, crossovers
from gpubackprop.benchmark.results import Result
from gpubackprop.benchmark.runner import benchmark

__all__ = ["Crossover", "Result", "advice", "benchmark", "crossover", "crossovers"]
