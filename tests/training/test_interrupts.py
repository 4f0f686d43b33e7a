from __future__ import annotations

import signal

from gpubackprop.training import Interrupts


def test_a_signal_that_is_named_twice_is_handled_as_before_afterwards() -> None:
    watched = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in watched]
    with Interrupts([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1]) as interrupts:
        signal.raise_signal(signal.SIGUSR1)
        assert interrupts.signal == signal.SIGUSR1
    assert [signal.getsignal(number) for number in watched] == before
