"""Kills training runs and looks at what is left: `python -m tests.pipeline.killed calls|moments COUNT SEED`, in an empty folder.

Runs are children of one process that has all imports done, forked from it, so that hundreds of them take minutes. The
last line of the output is a JSON object: how many were killed, how many of them were over before, and what was wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpubackprop as gb
from gpubackprop.errors import CheckpointError
from gpubackprop.files import atomic

COMMON: dict[str, Any] = {"device": "cpu", "layers": [8], "dropout": 0.2, "validation": 0.2}
OLD = {**COMMON, "epochs": 2, "seed": 1}
NEW = {**COMMON, "epochs": 6, "seed": 2, "batch_size": 16}
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod"}


def in_child(work: Callable[[], None], wait: float | None = None) -> int:
    """Run `work` in a forked process, killed after `wait` seconds; its status, -9 where it was killed."""
    child = os.fork()
    if not child:
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
            work()
            os._exit(0)
        except BaseException:
            print(traceback.format_exc(), flush=True)
            os._exit(1)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(out: str, settings: dict[str, Any], **options: Any) -> None:
    gb.train_run("iris", out=out, checkpoint_every="3 steps", **options, **settings)


def overwrite() -> None:
    train("run", NEW, overwrite=True)


def resume() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            gb.resume_run("run")
        except CheckpointError as error:
            if "holds no checkpoint" not in str(error):
                raise
            # Killed before there was anything: it begins anew.
            overwrite()


def counting(limit: int | None = None) -> list[int]:
    """From now on count calls that change files here, and end this process, as a kill would, at number `limit`. The count."""
    here, done = os.getcwd(), [0]

    def count() -> None:
        done[0] += 1
        if done[0] == limit:
            os._exit(9)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and os.path.abspath(os.fsdecode(arguments[0])).startswith(here):
            count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            count()
            result = function(*arguments)
            count()
            return result

        return call

    sys.addaudithook(hook)
    os.fsync = counted(os.fsync)
    atomic._exchange = counted(atomic._exchange)
    return done


def calls_of_a_run() -> None:
    """How many calls there are, into ../calls."""
    done = counting()
    overwrite()
    Path("../calls").write_text(str(done[0]))


def reset() -> None:
    """The old run, with a file that the user put there, and nothing else."""
    for name in ("run", "run.unfinished"):
        shutil.rmtree(name, ignore_errors=True)
    shutil.copytree("old", "run")
    Path("run", "notes.txt").write_text("mine")


def main(mode: str, count: int, seed: int) -> None:
    # Children begin with the libraries that a run loads.
    gb.data.load("iris")
    gb.train_run("xor", device="cpu", epochs=1, out="warm")
    shutil.rmtree("warm")
    for name, settings in (("old", OLD), ("new", NEW)):
        assert in_child(lambda name=name, settings=settings: train(name, settings)) == 0  # type: ignore[misc]
    old, new = (Path(name, "model.safetensors").read_bytes() for name in ("old", "new"))
    assert old != new
    reset()
    started = time.perf_counter()
    assert in_child(calls_of_a_run) == 0
    seconds, calls = time.perf_counter() - started, int(Path("../calls").read_text())
    rng, wrong, over = random.Random(seed), [], 0
    if mode == "calls":
        limits = sorted(rng.sample(range(1, calls + 1), min(count, calls)))
        kills = [(f"at call {n} of {calls}", lambda n=n: (counting(n), overwrite()), None) for n in limits]
    else:
        waits = [rng.uniform(0, 1.1 * seconds) for _ in range(count)]
        kills = [(f"after {wait:.3f} of {seconds:.3f} s", overwrite, wait) for wait in waits]  # type: ignore[misc]
    for what, work, wait in kills:
        reset()
        over += in_child(work, wait) == 0  # type: ignore[arg-type]
        found = Path("run", "model.safetensors").read_bytes()
        begun = Path("run.unfinished", ".replacing").exists() or found == new
        if found not in (old, new):
            wrong.append(f"killed {what}: the folder holds neither the old nor the new model")
        if not any(Path(name, "notes.txt").exists() for name in ("run", "run.unfinished")):
            wrong.append(f"killed {what}: a file of the user's is gone")
        if in_child(resume):
            wrong.append(f"killed {what}: it does not go on")
            continue
        if Path("run", "model.safetensors").read_bytes() != (new if begun else old):
            wrong.append(f"killed {what}: it goes on to other bits")
        if begun and (sorted(os.listdir()) != ["new", "old", "run"] or not Path("run", "notes.txt").exists()):
            wrong.append(f"killed {what}: in the end there are {sorted(os.listdir())} and {sorted(os.listdir('run'))}")
    print(json.dumps({"calls": calls, "kills": len(kills), "over": over, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
