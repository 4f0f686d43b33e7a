"""Everything that turns a name or a file into arrays ready for training."""

from gpubackprop.data.builtin import spirals
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.download import cache_folder
from gpubackprop.data.loading import NAMES, load
from gpubackprop.data.splitting import split
from gpubackprop.data.standardize import Standardizer

__all__ = ["NAMES", "Dataset", "Standardizer", "cache_folder", "load", "spirals", "split"]
