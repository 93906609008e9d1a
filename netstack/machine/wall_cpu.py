"""The two OS threads of a wall-clock CPU.

The *loop* thread is pinned where the host allows and runs the compiled loop; it never takes the GIL while it runs.  The
*Python* thread sleeps until the loop has left work for Python handlers; it then pauses the loop, runs them as this CPU,
and lets the loop go on.  So a CPU runs one handler at a time, and forwarding never waits for the interpreter.

A softint handler that blocks on a lock gives the CPU back (``step_aside``): the loop goes on, another Python thread
serves what comes, and the handler takes the CPU again, between two others, when it has the lock.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from errno import ENXIO

from netstack._fast import chain
from netstack.errors import NetstackError
from netstack.machine.cpu import Cpu

__all__ = ["WallCpu"]

STEP_S = 0.2  # how often a sleeping Python thread looks whether the machine is closed


class WallCpu:
    """Threads of one CPU.

    Args: offset_ns -- machine time minus CLOCK_MONOTONIC.   processor -- of the host, -1: not pinned.
          serve -- runs the Python handlers that wait on a CPU; called while the loop is paused.
    """

    def __init__(self, cpu: Cpu, offset_ns: int, processor: int, serve: Callable[[Cpu], None]) -> None:
        self.cpu = cpu
        self.lock = threading.RLock()  # guards is_running; its holder may pause the loop
        self._offset_ns = offset_ns
        self._processor = processor
        self._serve = serve
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._python_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        chain.set_eventfds(cpu.block, self._wake_fd, self._python_fd)
        self._gate = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._stopped.set()
        self._is_closing = False
        self.is_running = False
        name = f"netstack cpu{cpu.index}"
        self._name = name
        self._serving: int | None = None  # Python thread that runs handlers now
        self._aside = 0  # Python threads whose handler has blocked; guarded by the lock
        self._started = threading.Event()
        self._loop = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._python: list[threading.Thread] = []
        self._loop.start()
        self._more_python()

    def start(self) -> None:
        """Let the loop run, and the Python thread look at what was left over."""
        with self.lock:
            chain.stop(self.cpu.block, False)
            self._stopped.clear()
            self.is_running = True
            self._started.set()
            self._gate.release()
        os.eventfd_write(self._python_fd, 1)

    def stop(self) -> None:
        """Make the loop come back and wait for it; what is pending stays pending."""
        with self.lock:
            if self.is_running:
                chain.stop(self.cpu.block, True)
                self._stopped.wait()
                self.is_running = False
                self._started.clear()

    @property
    def python_ident(self) -> int | None:
        """Identifier of the thread that runs Python handlers."""
        return self._serving

    def paused(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` while the loop is between two handlers."""
        with self.lock:
            if not self.is_running:
                fn()
                return
            chain.pause(self.cpu.block)
            try:
                fn()
            finally:
                chain.resume(self.cpu.block)

    def step_aside(self, is_over: Callable[[], bool], deadline_ns: int | None) -> bool:
        """Let the CPU go on without the handler that calls, until ``is_over``; return what that said last.

        Context: a Python thread of this CPU, in a handler.
        Raises:  NetstackError -- ENXIO, the machine was closed meanwhile.
        """
        self._aside += 1
        if self._aside == len(self._python):
            self._more_python()
        self._serving = None
        chain.resume(self.cpu.block)
        self.lock.release()
        result = False
        try:
            while not (result := is_over()) and not self._is_closing:
                if deadline_ns is not None and time.monotonic_ns() > deadline_ns:
                    break
        finally:
            self.lock.acquire()
            while not self.is_running and not self._is_closing:  # at rest, a handler waits for the next start
                self.lock.release()
                self._started.wait(STEP_S)
                self.lock.acquire()
            self._aside -= 1
            if not self._is_closing:
                chain.pause(self.cpu.block)
            self._serving = threading.get_ident()
        if self._is_closing:
            raise NetstackError(ENXIO, f"CPU {self.cpu.index}: the machine was closed while a softint was blocked")
        return result

    def close(self) -> None:
        """End the threads."""
        self.stop()
        self._is_closing = True
        self._gate.release()
        self._loop.join()
        for thread in self._python:
            while thread.is_alive():
                with suppress(OSError):
                    os.eventfd_write(self._python_fd, 1)
                thread.join(STEP_S)
        chain.set_eventfds(self.cpu.block, -1, -1)
        os.close(self._wake_fd)
        os.close(self._python_fd)

    def _more_python(self) -> None:
        name = f"{self._name} py{len(self._python) or ''}"
        thread = threading.Thread(target=self._run_python, name=name, daemon=True)
        self._python.append(thread)
        thread.start()

    def _run_loop(self) -> None:
        if self._processor >= 0:
            with suppress(OSError):
                os.sched_setaffinity(0, {self._processor})
        while True:
            self._gate.acquire()
            if self._is_closing:
                return
            chain.run(self.cpu.block, self._offset_ns)
            self._stopped.set()

    def _run_python(self) -> None:
        poller = select.poll()
        poller.register(self._python_fd, select.POLLIN)
        while not self._is_closing:
            if poller.poll(STEP_S * 1000):
                with suppress(BlockingIOError):
                    os.eventfd_read(self._python_fd)
                with self.lock:
                    if self.is_running:  # at rest, work waits for the next start
                        chain.pause(self.cpu.block)
                        self._serving = threading.get_ident()
                        try:
                            self._serve(self.cpu)
                        finally:
                            self._serving = None
                            chain.resume(self.cpu.block)
