"""Real interfaces, in private network namespaces; needs root and says so when it is not."""

from collections.abc import Iterator

import pytest
from real.namespaces import World, missing

REASON = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "real":
            item.add_marker(pytest.mark.root)


@pytest.fixture
def world() -> Iterator[World]:
    """An empty set of namespaces; all of them are deleted afterwards."""
    if REASON:
        pytest.skip(f"real interfaces cannot be tested: {REASON}")
    made = World()
    try:
        yield made
    finally:
        made.close()
