"""``netstack.errors``: OSErrors with errno that read as one line."""

import errno
import pickle

import pytest

from netstack import errors
from netstack.errors import NetstackError

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES)
def test_carries_errno_and_message(kind: type[NetstackError]) -> None:
    problem = kind(errno.EBUSY, "wm0: a member of bridge1")
    assert isinstance(problem, OSError)
    assert problem.errno == errno.EBUSY
    assert str(problem) == "wm0: a member of bridge1 (EBUSY)"


@pytest.mark.parametrize("kind", CLASSES)
def test_survives_pickling(kind: type[NetstackError]) -> None:
    copy = pickle.loads(pickle.dumps(kind(errno.ENOENT, "wm9: no such interface")))
    assert type(copy) is kind
    assert (copy.errno, str(copy)) == (errno.ENOENT, "wm9: no such interface (ENOENT)")


def test_keeps_its_class_for_every_errno() -> None:
    assert type(NetstackError(errno.ENOENT, "x")) is NetstackError
