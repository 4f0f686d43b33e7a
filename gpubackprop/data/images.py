"""MNIST and Fashion-MNIST: where their four IDX files are looked for, and how one knows that they are right."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.dataset import Dataset
from gpubackprop.data.download import fetch_idx
from gpubackprop.data.idx import read_idx
from gpubackprop.errors import DataError
from gpubackprop.files.cache import cache_folder, folder_for

SYSTEM_FOLDER = Path("/usr/share/datasets")
"""Debian's packages put a data set's files into a folder of its name here (dataset-fashion-mnist)."""

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class ImageSet:
    """One member of the MNIST family. sha256: of the uncompressed files, in the order of STEMS."""

    classes: tuple[str, ...]
    target: str
    roots: tuple[str, ...]
    sha256: tuple[str, ...]


IMAGE_SETS = {
    "fashion-mnist": ImageSet(
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        target="article",
        roots=("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "mnist": ImageSet(
        classes=tuple("0123456789"),
        target="digit",
        roots=("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}


def load_images(name: str, folder: str | os.PathLike[str] | None, download: bool) -> Dataset:
    """The data set with uint8 x: (60000, 784) and x_test: (10000, 784), pixels 0..255 row by row.

    With a folder, the files there are taken as they are, whatever their number of images, and nowhere else is looked.
    Otherwise each file comes from the cache, from SYSTEM_FOLDER or, if `download`, from the first root that has
    it, and its content must have the published digest.

    Raises DataError for files that are missing, damaged, of another kind, or that do not belong together.
    """
    known = IMAGE_SETS[name]
    if folder is not None:
        paths = [_in_folder(Path(folder), stem) for stem in STEMS]
        arrays = [read_idx(path) for path in paths]
    else:
        paths = [_official(name, known, i, download) for i in range(4)]
        arrays = [read_idx(path, sha256=digest) for path, digest in zip(paths, known.sha256, strict=True)]
    x, y = _pair(paths[:2], arrays[:2], len(known.classes))
    x_test, y_test = _pair(paths[2:], arrays[2:], len(known.classes))
    if x.shape[1] != x_test.shape[1]:
        raise DataError(f"{paths[2]}: images of {x_test.shape[1]} pixels, but {paths[0]} has images of {x.shape[1]}")
    return Dataset(name, x, y, "classification", known.classes, (), x_test, y_test, (known.target,), image=True)


def _pair(
    paths: list[Path], arrays: list[NDArray[np.generic]], classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = arrays
    for path, array, rank, kind in ((paths[0], images, 3, "images"), (paths[1], labels, 1, "labels")):
        if array.ndim != rank or array.dtype != np.uint8 or not array.size:
            raise DataError(f"{path}: holds {array.dtype} {array.shape}, expected uint8 {kind} with {rank} dimensions")
    if len(images) != len(labels):
        raise DataError(f"{paths[0]}: {len(images):,} images, but {paths[1]} has {len(labels):,} labels")
    if labels.max() >= classes:
        raise DataError(f"{paths[1]}: label {labels.max()}, expected 0..{classes - 1}")
    return images.reshape(len(images), -1).astype(np.uint8, copy=False), labels.astype(np.int64)


def _present(folder: Path, stem: str) -> Path | None:
    # unpacked copies often carry a dot for the last dash but one: train-images.idx3-ubyte
    names = (stem, stem.replace("-idx", ".idx"))
    return next((p for n in names for e in ("", ".gz") if (p := folder / f"{n}{e}").exists()), None)


def _in_folder(folder: Path, stem: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; folder= names the one that holds {', '.join(STEMS)} (.gz or not)")
    path = _present(folder, stem)
    if path is None:
        raise DataError(f"{folder}: holds no {stem} nor {stem}.gz; without folder= the cache and the web are tried")
    return path


def _official(name: str, known: ImageSet, index: int, download: bool) -> Path:
    stem = STEMS[index]
    cache = cache_folder() / name
    for folder in (cache, SYSTEM_FOLDER / name):
        if path := _present(folder, stem):
            return path
    if not download:
        raise DataError(
            f"{name}: {stem} is neither in {cache} nor in {SYSTEM_FOLDER / name}, and downloads are off: allow them or "
            "name the folder that holds the files (folder=...)"
        )
    path = folder_for(name) / f"{stem}.gz"
    if path.exists():
        return path
    fetch_idx(known.roots, path.name, path, sha256=known.sha256[index], limit=64 << 20)
    return path
