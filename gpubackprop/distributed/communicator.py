"""What the processes of a training say to each other, whatever carries it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.errors import DisagreementError

if TYPE_CHECKING:
    from gpubackprop.backend.cuda.nccl import NcclAllReduce

T = TypeVar("T")


class Communicator(ABC):
    """The processes that train together. All of them must call its methods in the same order.

    rank: the number of this one, from 0 to size - 1. local_rank: its number among those of its machine. Values are what JSON can
    hold. Used as a context manager, it ends the other processes where an error ends this one.
    """

    def __init__(self, rank: int, size: int, local_rank: int) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.failed = False
        """Whether an error left a `with` of it: the others would wait for ever."""
        self._attached: str | None = None
        self._gpus: NcclAllReduce | None = None
        """What adds up arrays of GPUs among themselves, where something does."""
        self.together = False
        """Whether all of them know that what they do is ended."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def capturable(self) -> bool:
        """Whether `sum` can be captured with the step around it: in all processes, or in none."""
        return self._gpus is not None and self._gpus.capturable

    def rows(self, n: int) -> range:
        """The rows of a batch of n that this process goes through: parts in the order of the ranks, of sizes n // size and,
        for the first ranks, one more. They are empty for the last ranks where n is below size."""
        least, more = divmod(n, self.size)
        start = self.rank * least + min(self.rank, more)
        return range(start, start + least + (self.rank < more))

    def counts(self, n: int) -> set[int]:
        """How many rows of a batch of n a process goes through: one number, or two that follow each other."""
        return {n // self.size, -(-n // self.size)}

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, in every process."""

    @abstractmethod
    def broadcast(self, value: T | None) -> T:
        """Rank 0's value, in every process."""

    @abstractmethod
    def share(self, host: np.ndarray) -> None:
        """Write rank 0's host array, C-contiguous, into those of the others, of the same shape and type."""

    def attach(self, be: Backend) -> None:
        """Get ready to add up arrays of this device. Raises DeviceError, in every process, where that cannot be done."""
        if not all(self.gather(self._attached == be.name)):
            self._attached = None
            self._connect(be)
            self._attached = be.name

    @abstractmethod
    def _connect(self, be: Backend) -> None:
        """What `attach` does for another device than before."""

    @abstractmethod
    def sum(self, be: Backend, array: Array) -> None:
        """array <- the sum of the arrays of all ranks, with the same bits in every process. C-contiguous, on the device that
        was attached."""

    def begin(self, array: Array) -> None:
        """`sum` beside what comes next, which must leave the array alone until `join`; where it is `capturable`."""
        assert self._gpus is not None
        self._gpus.begin(array)

    def join(self) -> None:
        """Have what comes next come after the sums that were begun."""
        assert self._gpus is not None
        self._gpus.join()

    def copy_from_first(self, be: Backend, array: Array) -> None:
        """Write rank 0's device array into those of the others."""
        host = np.ascontiguousarray(be.to_host(array)).reshape(array.shape)
        self.share(host)
        if not self.leads:
            be.copy_in(host, array)

    def agree(self, facts: dict[str, Any]) -> None:
        """Raise DisagreementError, in every process, unless the facts are the same in all; it names ranks and what differs."""
        texts = [{k: json.dumps(v, sort_keys=True) for k, v in each.items()} for each in self.gather(facts)]
        problems = []
        for name in texts[0]:
            values = [each.get(name, "nothing") for each in texts]
            # Of a tie the first rank's stands, since Counter keeps the order of what it meets.
            usual = Counter(values).most_common(1)[0][0]
            problems += [
                f"rank {rank} has another {name} than the others: {_short(value)}, theirs {_short(usual)}"
                for rank, value in enumerate(values)
                if value != usual
            ]
        if problems:
            raise DisagreementError(
                f"the {self.size} processes must train the same network on the same data in the same way; {'; '.join(problems)}"
            )

    def __enter__(self) -> Communicator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.failed |= kind is not None and not self.together
        self.together = False


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
