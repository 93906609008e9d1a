"""What a CPU is doing in Python right now: for reports about one that does not get on.

Context: any; the CPU goes on meanwhile on the wall machine, so the lines are a snapshot.
Limits:  a handler that runs compiled code shows the Python line that called it; a compiled run loop has
         no Python stack at all.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from netstack.machine.cpu import Cpu

__all__ = ["stack_of"]

FRAMES_MAX = 12  # the innermost


def stack_of(cpu: Cpu) -> list[str]:
    """Return ``file:line function`` of what runs on a CPU, innermost last; empty when that is not Python."""
    if cpu.context is None:
        return []
    frame = _frame_of(cpu)
    if frame is None:
        return []
    lines = traceback.extract_stack(frame)[-FRAMES_MAX:]
    return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in lines]


def _frame_of(cpu: Cpu) -> FrameType | None:
    green = getattr(cpu, "greenlet", None)
    if green is not None:  # a virtual CPU: suspended, unless it is the caller
        frame: FrameType | None = green.gr_frame
        return frame
    ident = cpu.machine.python_thread(cpu.index)
    return None if ident is None else sys._current_frames().get(ident)
