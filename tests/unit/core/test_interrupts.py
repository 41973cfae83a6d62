"""Work that an interrupt must not tear in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from hpc.core.interrupts import deferred


@pytest.fixture
def interruptible() -> Iterator[None]:
    """^C raises KeyboardInterrupt, also where the tests run in a background that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("whole")
    assert done == ["whole"]
    with pytest.raises(KeyboardInterrupt):  # and as ever afterwards
        signal.raise_signal(signal.SIGINT)


def test_without_one_nothing_happens_and_errors_pass() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="own"), deferred():
        raise ValueError("own")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_have_nothing_to_defer() -> None:
    done = []

    def work() -> None:
        with deferred():
            done.append("whole")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["whole"]
