"""Public names: every module imports, and every name in its ``__all__`` exists."""

from importlib import import_module

import pytest
from tidy.tree import module_name, package_files

MODULES = sorted(f"netstack.{module_name(path)}".rstrip(".") for path in package_files(".py"))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_exported_names_exist(name: str) -> None:
    module = import_module(name)
    missing = [item for item in getattr(module, "__all__", ()) if not hasattr(module, item)]
    assert not missing
