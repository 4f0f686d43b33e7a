"""Everything that turns a name or a file into arrays ready for training."""

from gpubackprop.data.builtin import spirals
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.loading import NAMES, load
from gpubackprop.data.splitting import split
from gpubackprop.data.standardize import Standardizer
from gpubackprop.files.cache import cache_folder

__all__ = ["NAMES", "Dataset", "Standardizer", "cache_folder", "load", "spirals", "split"]
