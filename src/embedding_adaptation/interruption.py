"""Orderly shutdown on Ctrl-C and SIGTERM: first child processes, then open resources, then this process with exit code 128 + signal.

Python runs a signal handler only between two bytecode instructions, so a long call into a library delays it, while the sender of SIGTERM
may wait only briefly (Docker: 10 seconds). A thread that the signal wakes at once therefore ends the child processes, and closes resources
itself if the main thread does not get there in time. See https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

# Seconds for the work to stop by itself, and for the whole shutdown; the difference is what a tracking server may take.
GRACE, LIMIT = 5.0, 20.0
_CHILDREN_SECONDS = 2.0
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_current: OrderlyEnd | None = None
_forking = threading.local()


class Interrupted(SystemExit):
    """Raised in the main thread when a signal arrives, so that open resources are closed as after any error."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name


class OrderlyEnd:
    """The context in which SIGINT, SIGTERM and SIGHUP end the command in order.

    An ignored signal stays ignored, as under ``nohup`` or for a shell's background jobs.

    Args:
        close: Closes open resources, given the signal's name. It is called once, by the main thread or another one.
    """

    def __init__(self, close: Callable[[str], None]) -> None:
        self._close = close
        self._signum = 0
        self._held = 0
        self._pending = False
        self._closing, self._childless = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._before: dict[int, object] = {}
        self._pipe = (-1, -1)

    def __enter__(self) -> Self:
        global _current  # noqa: PLW0603  signals are handled per process
        if _current is not None or threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers, and only the outermost context does
        for signum in _SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._interrupt)
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._pipe[0],), name="signals", daemon=True).start()
        _current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        global _current  # noqa: PLW0603
        if _current is not self:
            return
        if isinstance(error, Interrupted):
            self._close_once(self._signum)
            self._childless.wait(LIMIT)
            _leave(self._signum)  # a regular exit would spend as long again unloading torch and numba
        signal.set_wakeup_fd(-1)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        os.close(self._pipe[1])
        _current = None

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signum:
            return
        self._signum = signum
        if self._held:
            self._pending = True
        else:
            raise Interrupted(signum)

    def _watch(self, pipe: int) -> None:
        received = os.read(pipe, 1)
        while received and received[0] not in self._before:
            received = os.read(pipe, 1)
        if not received:
            os.close(pipe)
            return
        signum = received[0]
        last = threading.Timer(LIMIT, _leave, (signum,))
        last.daemon = True
        last.start()
        end_children()
        self._childless.set()
        if not self._closing.wait(GRACE):
            self._close_once(signum)
            _leave(signum)

    def _close_once(self, signum: int) -> None:
        with self._lock:
            if not self._closing.is_set():
                self._closing.set()
                self._close(signal.Signals(signum).name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer interruptions while the block runs."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending and not self._held and not self._closing.is_set():
            self._pending = False
            raise Interrupted(self._signum)


@contextmanager
def held_signals() -> Iterator[None]:
    """Defer interruptions while the block runs, so that its work is done exactly once and known to be done."""
    if _current is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _current.held():
        yield


def end_children() -> None:
    """End all descendant processes: with SIGTERM, and after two seconds with SIGKILL."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for ending in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            try:
                ending(child)
            except psutil.Error:
                continue  # it has already ended
        _, children = psutil.wait_procs(children, timeout=_CHILDREN_SECONDS)


def _leave(signum: int) -> None:
    logging.shutdown()
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(128 + signum)


def _hold_for_fork() -> None:
    """Block signals until the child has dropped its parent's handlers: one in between would be lost or reach the parent."""
    if _current is not None:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _go_on_after_fork() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    """Drop the handlers and the pipe inherited from the parent, so that a signal to the child does not reach the parent."""
    global _current  # noqa: PLW0603
    if _current is not None:
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            for signum in _current._before:  # noqa: SLF001  same module
                signal.signal(signum, signal.SIG_DFL)
        _current = None
    _go_on_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_for_fork, after_in_parent=_go_on_after_fork, after_in_child=_forget_in_child)
