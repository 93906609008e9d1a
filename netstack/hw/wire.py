"""The far end of a NIC's cable (paper §6.1): where a test sends frames in and takes frames out.

Frames carry no FCS.  A frame of 14 to 59 bytes is padded to 60, as a sender's NIC does; a shorter one is a
runt and is dropped by name when it arrives.  A frame that meets no receive descriptor waits on the cable
(a link with flow control).
"""

from collections.abc import Iterable
from errno import EINVAL, ENETDOWN, ENOBUFS
from typing import Any, Protocol

from netstack.errors import NetstackError

__all__ = ["Nic", "Wire", "as_frames"]


class Nic(Protocol):
    """The near end, as a wire sees it."""

    def arrive(self, frames: list[Any]) -> int:
        """Take frames that come in; how many found room on the cable."""

    def depart(self, count: int) -> list[bytes]:
        """Return up to ``count`` frames that went out (-1: all)."""


def as_frames(frames: Any) -> list[Any]:
    """Return a list of contiguous buffers: one buffer becomes a list of one; a 2-D array its rows.

    Raises: NetstackError(EINVAL) for something that is neither a buffer nor an iterable of buffers.
    """
    try:
        view = memoryview(frames)
    except TypeError:
        if isinstance(frames, str) or not isinstance(frames, Iterable):
            raise _no_buffer(frames) from None
        return [_contiguous(frame) for frame in frames]
    if view.ndim != 2 or view.shape is None:
        return [_contiguous(frames)]
    count, row_bytes = view.shape[0], view.shape[1] * view.itemsize
    data = view.tobytes()
    return [data[at * row_bytes : (at + 1) * row_bytes] for at in range(count)]


def _contiguous(frame: Any) -> Any:
    """Return a frame itself, or its bytes when it is not a plain run of bytes in memory."""
    if type(frame) is bytes:
        return frame
    try:
        view = memoryview(frame)
    except TypeError:
        # what a packet library calls a packet turns into bytes
        if isinstance(frame, str) or not hasattr(frame, "__bytes__"):
            raise _no_buffer(frame) from None
        return bytes(frame)
    try:
        view.cast("B")
    except (TypeError, ValueError):
        return view.tobytes()
    return frame


def _no_buffer(thing: Any) -> NetstackError:
    return NetstackError(EINVAL, f"a frame is bytes or another buffer, not {type(thing).__name__}")


class Wire:
    """The cable of one NIC, seen from its far end."""

    def __init__(self, name: str, nic: Nic) -> None:
        self.name = name
        self._nic = nic
        self.is_cut = False

    def send(self, frames: Any) -> int:
        """Put one frame, or a list of frames, on the cable; return how many.

        Context: any thread.  Any buffer is taken and copied; a 2-D array is one frame a row.
        Raises:  NetstackError: EINVAL (no buffer), ENETDOWN (the cable is cut or the machine
                 closed), ENOBUFS (the cable is full: run the machine; what fitted is on its way).
        """
        if self.is_cut:
            raise NetstackError(ENETDOWN, f"{self.name}: the wire leads nowhere; its machine is closed")
        batch = as_frames(frames)
        done = self._nic.arrive(batch)
        if done < len(batch):
            text = f"{self.name}: the cable took {done} of {len(batch)} frames; run the machine"
            raise NetstackError(ENOBUFS, text)
        return done

    def recv(self, count: int = -1) -> list[bytes]:
        """Return frames the NIC put on its cable, oldest first: up to ``count``, or all."""
        return self._nic.depart(count)

    def __repr__(self) -> str:
        return f"<Wire of {self.name}{' (cut)' if self.is_cut else ''}>"
