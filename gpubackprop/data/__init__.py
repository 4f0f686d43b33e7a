"""Everything that turns a name or a file into arrays ready for training."""

from gpubackprop.data.builtin import spirals
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.loading import NAMES, load, load_rows
from gpubackprop.data.splitting import split
from gpubackprop.data.standardize import Standardizer
from gpubackprop.data.tables import Table, read_table
from gpubackprop.data.text_tables import TextFormat
from gpubackprop.files.cache import cache_folder

__all__ = [
    "NAMES",
    "Dataset",
    "Standardizer",
    "Table",
    "TextFormat",
    "cache_folder",
    "load",
    "load_rows",
    "read_table",
    "spirals",
    "split",
]
