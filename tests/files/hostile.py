"""Reads files that were damaged in every way, in a process of its own with little memory: for tests/files/test_hostile.py.

    python -m tests.files.hostile COUNT SEED KIND...

prints a line for each damaged file that was not read and not refused with an error of this library, in time and memory.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import signal
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpubackprop as gb
from gpubackprop.bench.result import Result
from gpubackprop.cli.summary import summary
from gpubackprop.data.idx import read_idx
from gpubackprop.files import cache

SECONDS, MEMORY = 5, 500 << 20


def table() -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    rows = 60
    return {
        "number": [round(float(v), 3) for v in rng.normal(size=rows)],
        "whole": [int(v) for v in rng.integers(-5, 5, rows)],
        "text": [str(v) for v in rng.choice(["red", "green", 'b"lue', "ä,ö"], rows)],
        "date": [f"2024-0{1 + i % 9}-1{i % 9}" for i in range(rows)],
        "y": [str(v) for v in rng.choice(["yes", "no"], rows)],
    }


def csv() -> bytes:
    columns = table()
    quoted = [
        [f'"{str(v).replace(chr(34), chr(34) * 2)}"' if isinstance(v, str) else str(v) for v in c]
        for c in columns.values()
    ]
    return "\n".join([",".join(columns), *(",".join(row) for row in zip(*quoted, strict=True))]).encode()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", csv())
    return file.getvalue()


def zstd() -> bytes:
    import pyarrow as pa

    content: bytes = pa.compress(csv(), "zstd", asbytes=True)
    return content


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(table()), file)
    return file.getvalue()


def feather() -> bytes:
    import pyarrow as pa
    import pyarrow.feather

    file = io.BytesIO()
    pyarrow.feather.write_feather(pa.table(table()), file)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(40, dtype=np.float32).reshape(20, 2))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 3)
    return file.getvalue()


def idx() -> bytes:
    return b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (5, 4, 3)) + bytes(range(60))


def checkpoint() -> bytes:
    net = gb.mlp([3, 4, 2], loss="cross_entropy", dropout=0.1, device="cpu")
    optimizer = gb.Adam(groups=[{"parameters": "0.*", "weight_decay": 0.1}])
    net.train_step(np.ones((2, 3)), [0, 1], optimizer)
    with tempfile.TemporaryDirectory() as folder:
        gb.save(Path(folder, "net.safetensors"), net, optimizer=optimizer, extra={"note": "text", "n": np.arange(3)})
        return Path(folder, "net.safetensors").read_bytes()


def run_file(name: str) -> bytes:
    """A file of a run folder."""
    with tempfile.TemporaryDirectory() as folder:
        data = gb.Dataset.from_frame(table(), target="y")
        gb.train_run(data, out=Path(folder, "run"), epochs=2, layers=[4], device="cpu", say=lambda line: None)
        return next(Path(folder, "run").rglob(name)).read_bytes()


def bench() -> bytes:
    from gpubackprop.bench.runner import benchmark

    result = benchmark([4, 3, 2], batch_sizes=[8], devices=["cpu"], repeats=2, seconds=0.01)
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder, "bench.json"))
        return Path(folder, "bench.json").read_bytes()


def load_x_and_y(path: Path) -> None:
    y = path.with_name("y.npy")
    np.save(y, np.arange(20) % 3)
    gb.data.load(str(path))


def load_table(path: Path) -> None:
    gb.data.load(str(path), target="y")


def summarized(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        summary(str(path.parent), "cpu")


def load_cached(path: Path) -> None:
    path.chmod(0o600)
    os.environ["GPUBACKPROP_CACHE"] = str(path.parent.parent)
    assert cache.load(path.name) in (None, CACHED[64:])


CACHED = hashlib.sha256(b"machine code").hexdigest().encode() + b"machine code"

KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], Any]]] = {
    "csv": ("t.csv", csv, load_table),
    "csv.gz": ("t.csv.gz", lambda: gzip.compress(csv()), load_table),
    "csv.bz2": ("t.csv.bz2", lambda: bz2.compress(csv()), load_table),
    "csv.xz": ("t.csv.xz", lambda: lzma.compress(csv()), load_table),
    "csv.zst": ("t.csv.zst", zstd, load_table),
    "csv.zip": ("t.csv.zip", zipped, load_table),
    "parquet": ("t.parquet", parquet, load_table),
    "feather": ("t.feather", feather, load_table),
    "npy": ("x.npy", npy, load_x_and_y),
    "npz": ("t.npz", npz, lambda path: gb.data.load(str(path))),
    "idx": ("t-idx3-ubyte", idx, read_idx),
    "idx.gz": ("t-idx3-ubyte.gz", lambda: gzip.compress(idx()), read_idx),
    "checkpoint": ("n.safetensors", checkpoint, lambda path: gb.load_checkpoint(path, "cpu")),
    "model": ("model.safetensors", lambda: run_file("model.safetensors"), lambda path: gb.load_run(path.parent, device="cpu")),
    "resumed": ("s.safetensors", lambda: run_file("step-*"), lambda path: gb.Trainer.resume(path, device="cpu")),
    "settings": ("settings.json", lambda: run_file("settings.json"), summarized),
    "history": ("history.jsonl", lambda: run_file("history.jsonl"), summarized),
    "bench": ("bench.json", bench, lambda path: (Result.load(path), gb.choose_device(path, [4, 3, 2], 8))),
    "cache": ("code/entry", lambda: CACHED, load_cached),
}  # fmt: skip


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to four changes of any kind."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        kind, at = int(rng.integers(9)), int(rng.integers(max(len(data), 1)))
        length = int(min(rng.geometric(0.05), 4096))
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            data[at:at] = data[at : at + length]
        elif kind == 6:
            data[at : at + length] = bytes(length)
        elif kind == 7:
            data[at : at + 4] = b"\xff\xff\xff\x7f"
        elif data[:1] in (b"{", b"[") or b"{" in data[:4096]:
            # Other words and numbers in JSON.
            words = [
                b"null",
                b"true",
                b"-1",
                b"1e999",
                b"1e30",
                b"[]",
                b"{}",
                b'"x"',
                b"NaN",
                b"9" * 30,
                b"0.5",
                b'"\x1b[2J"',
            ]
            marks = [i for i in range(len(data)) if data[i : i + 1] in b":,["]
            if marks:
                begin = marks[int(rng.integers(len(marks)))] + 1
                end = next((i for i in range(begin, len(data)) if data[i : i + 1] in b",]}"), len(data))
                data[begin:end] = words[int(rng.integers(len(words)))]
    return bytes(data)


def most_memory() -> int:
    """The most bytes that this process has had at once."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def forget_most_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class TooSlowError(BaseException):
    pass


def _too_slow(*_: Any) -> None:
    raise TooSlowError


def main(kind: str, count: int, seed: int) -> None:
    name, make, read = KINDS[kind]
    content, rng = make(), np.random.default_rng(seed)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(0o700, exist_ok=True)
        if read is summarized:
            path.with_name("model.safetensors").write_bytes(run_file("model.safetensors"))
            path.with_name("settings.json").write_bytes(run_file("settings.json"))
            path.with_name("history.jsonl").write_bytes(run_file("history.jsonl"))
        path.write_bytes(content)
        read(path)
        forget_most_memory()
        before = most_memory()
        for i in range(count):
            path.write_bytes(found := damaged(content, rng))
            signal.alarm(SECONDS)
            try:
                read(path)
            except gb.GpuBackpropError as error:
                text = str(error)
                if not text or "\n" in text:
                    print(json.dumps([kind, i, "an error of other than one line", text[:200], found.hex()[:2000]]))
            except BaseException as error:
                where = error.__traceback__
                while where is not None and where.tb_next is not None:
                    where = where.tb_next
                place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
                print(json.dumps([kind, i, type(error).__name__, str(error)[:200], place]))
            finally:
                signal.alarm(0)
            if most_memory() - before > MEMORY:
                print(json.dumps([kind, i, "took more memory than it may", most_memory() - before]))
                forget_most_memory()


if __name__ == "__main__":
    for kind in sys.argv[3:]:
        main(kind, int(sys.argv[1]), int(sys.argv[2]))
