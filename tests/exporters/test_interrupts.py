"""Signals become exceptions where that helps, wait where they would hurt, and stay the program's own."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from modelport.exporters import interrupts


@pytest.mark.parametrize("number", interrupts.TERMINATIONS)
def test_termination_raises_the_exit_code_of_its_signal_and_the_default_comes_back(number: int) -> None:
    with pytest.raises(SystemExit) as caught, interrupts.raising():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_handlers_of_the_program_are_left_to_it() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with interrupts.raising():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signal_waits_until_the_clean_up_is_done(number: int, error: type[BaseException]) -> None:
    done = []

    def clean_up() -> None:
        with interrupts.raising(), interrupts.deferred():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            done.append("cleaned up")

    with pytest.raises(error):
        clean_up()
    assert done == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with interrupts.raising(), interrupts.deferred():
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.SIG_DFL]
