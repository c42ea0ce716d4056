"""Ctrl-C and termination as exceptions that a `with` block can clean up after, held back where they must."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

TERMINATIONS = (signal.SIGTERM, signal.SIGHUP)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def raising() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `SystemExit(128 + number)`, so that everything is cleaned up.

    Signals that the program handles or ignores already are left to it, and so is every thread but the main
    one, where Python allows no handlers.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in TERMINATIONS if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, _leave)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP wait; the first that came is delivered at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATIONS)}
    # Only what raises an exception can interrupt the block; SIG_DFL kills, SIG_IGN and C handlers stay.
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
