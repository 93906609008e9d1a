"""The import rule: which file may import which, read from the syntax trees (docs/style.md)."""

from pathlib import Path

import pytest
from tidy.tree import ROOT, imports, module_name, package_files

# What nobody outside WORLD may import: it would tie the stack to one clock, one kind of thread or
# one source of chance.  The machine gives all three.
WORLDLY = {"time", "threading", "random", "socket", "logging"}
WORLD = ("machine", "ports", "cmd", "explore")

LEAVES = ("params", "errors")

# Layer -> what it may import besides itself and the leaves.  "hw.*_regs" matches by its end.
MAY_IMPORT = {
    "_fast": (),
    "params": (),
    "errors": (),
    "machine": ("_fast",),
    "kern": ("machine.api", "_fast"),
    "net": ("kern", "machine.api", "_fast"),
    "hw": ("machine.api", "_fast"),
    "dev": ("kern", "net.ifnet", "hw.regs", "hw.*_regs", "hw.wire", "machine.api", "_fast"),
    "ports": ("hw.wire", "machine.api", "_fast"),
    "audit": ("net", "dev", "hw", "ports", "kern", "machine", "_fast"),
    # The one arrow up: Machine.command runs the operator's tools, which it loads when it is called.
    "topology": ("audit", "net", "dev", "hw", "ports", "kern", "machine", "_fast", "cmd.control"),
    "rfc2544": ("topology", "audit", "net", "dev", "hw", "ports", "kern", "machine", "_fast"),
    "explore": ("topology", "audit", "net", "dev", "hw", "ports", "kern", "machine", "_fast"),
    "cmd": (
        "explore",
        "rfc2544",
        "topology",
        "audit",
        "net",
        "dev",
        "hw",
        "ports",
        "kern",
        "machine",
        "_fast",
    ),
}

# Files above all layers.
TOP = ("", "__main__")


def permits(rule: str, target: str) -> bool:
    """Say whether a rule of MAY_IMPORT covers the module ``target``."""
    if "*" in rule:
        start, end = rule.split("*")
        return target.startswith(start) and target.endswith(end)
    return target == rule or target.startswith(f"{rule}.")


def arrows(path: Path) -> set[str]:
    """Return the modules of netstack that a file imports, without the leading ``netstack.``.

    The package itself counts as ``topology``, which is where its public names come from.
    """
    found = {name for name in imports(path) if f"{name}.".startswith("netstack.")}
    return {name.removeprefix("netstack").lstrip(".") or "topology" for name in found}


@pytest.mark.parametrize(
    "path", package_files(".py", ".pyx", ".pxd"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_downward(path: Path) -> None:
    module = module_name(path)
    layer = module.partition(".")[0]
    if module in TOP:
        return
    assert layer in MAY_IMPORT, f"{path.name}: no layer '{layer}'; add it to docs/style.md and here"
    rules = (layer, *MAY_IMPORT[layer], *(() if layer == "_fast" else LEAVES))
    wrong = {name for name in arrows(path) if not any(permits(rule, name) for rule in rules)}
    if layer in LEAVES:
        wrong = arrows(path)
    assert not wrong, f"{module} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", package_files(".py"), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_machine_knows_the_world(path: Path) -> None:
    if module_name(path).partition(".")[0] in WORLD:
        return
    worldly = {name.partition(".")[0] for name in imports(path)} & WORLDLY
    assert not worldly, f"{path.name} imports {sorted(worldly)}: ask the machine instead"


def test_rule_can_fail() -> None:
    assert not permits("machine.api", "machine.threads")
    assert not permits("hw.*_regs", "hw.wm")
    assert permits("hw.*_regs", "hw.wm_regs")
    assert permits("kern", "kern.softint")
