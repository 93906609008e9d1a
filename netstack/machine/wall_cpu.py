"""The two OS threads of a wall-clock CPU.

The *loop* thread is pinned where the host allows and runs the compiled loop; it never takes the GIL while it runs.  The
*Python* thread sleeps until the loop has left work for Python handlers; it then pauses the loop, runs them as this CPU,
and lets the loop go on.  So a CPU runs one handler at a time, and forwarding never waits for the interpreter.
"""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

from netstack._fast import chain
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
        self._loop = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._python = threading.Thread(target=self._run_python, name=f"{name} py", daemon=True)
        self._loop.start()
        self._python.start()

    def start(self) -> None:
        """Let the loop run, and the Python thread look at what was left over."""
        with self.lock:
            chain.stop(self.cpu.block, False)
            self._stopped.clear()
            self.is_running = True
            self._gate.release()
        os.eventfd_write(self._python_fd, 1)

    def stop(self) -> None:
        """Make the loop come back and wait for it; what is pending stays pending."""
        with self.lock:
            if self.is_running:
                chain.stop(self.cpu.block, True)
                self._stopped.wait()
                self.is_running = False

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

    def close(self) -> None:
        """End both threads."""
        self.stop()
        self._is_closing = True
        self._gate.release()
        with suppress(OSError):
            os.eventfd_write(self._python_fd, 1)
        self._loop.join()
        self._python.join()
        chain.set_eventfds(self.cpu.block, -1, -1)
        os.close(self._wake_fd)
        os.close(self._python_fd)

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
                        self.paused(lambda: self._serve(self.cpu))
