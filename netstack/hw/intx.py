"""Interrupt lines: level-triggered, shared by the functions wired to them (paper §2.3.1; PCI 3.0, 2.2.6).

A line is asserted while any function on it wants service.  Causes of a function are compiled sources that
are routed to the CPU and vector of the line's entry in the interrupt controller; a function signals on its
line only while neither MSI nor MSI-X is enabled and its command register does not forbid it.  After the
handlers have run, ``eoi`` delivers again when a function still asserts: that is what level-triggered means.
"""

from __future__ import annotations

from collections.abc import Callable

from netstack._fast.intr import IntrController, IntrSource

__all__ = ["IntxFunction", "IntxLine"]


class IntxFunction:
    """A function's share of a line.

    Args: sources -- its causes.   is_open -- may it use the line now?   is_asserted -- does it?
    """

    def __init__(
        self, sources: list[IntrSource], is_open: Callable[[], bool], is_asserted: Callable[[], bool]
    ) -> None:
        self.sources = sources
        self.is_open = is_open
        self.is_asserted = is_asserted
        self.line: IntxLine | None = None


class IntxLine:
    """Pin ``number`` of the interrupt controller."""

    is_shared = True

    def __init__(self, controller: IntrController, number: int) -> None:
        self.number = number
        self._controller = controller
        self._functions: list[IntxFunction] = []
        self._route = (0, 0)
        self._is_masked = True
        self.raised_again = 0  # deliveries because the line was still asserted

    def attach(self, function: IntxFunction) -> None:
        """Wire a function to the line."""
        self._functions.append(function)
        function.line = self
        self.apply()

    def detach(self, function: IntxFunction) -> None:
        """Take it off."""
        self._functions.remove(function)
        function.line = None

    @property
    def is_asserted(self) -> bool:
        """Whether any function wants service."""
        return any(function.is_open() and function.is_asserted() for function in self._functions)

    def route(self, cpu: int, slot: int) -> None:
        """Program the entry of the interrupt controller."""
        self._route = (cpu, slot)
        self.apply()

    def mask(self) -> None:
        """Mask the entry; what comes waits."""
        self._is_masked = True
        self.apply()

    def unmask(self) -> None:
        """Open the entry; what waited is delivered."""
        self._is_masked = False
        self.apply()

    def eoi(self) -> None:
        """End of interrupt: deliver again if the line is still asserted."""
        if not self._is_masked and self.is_asserted:
            self.raised_again += 1
            self._controller.post(*self._route)

    def apply(self) -> None:
        """Bring the sources of every function that may use the line in step with the entry."""
        for function in self._functions:
            if function.is_open():
                for source in function.sources:
                    source.route(*self._route)
                    if source.masked != self._is_masked:
                        (source.mask if self._is_masked else source.unmask)()
