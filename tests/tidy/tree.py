"""The checkout as data: its files, and what each Python or Cython file imports from netstack."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "netstack"

SOURCE_SUFFIXES = (".py", ".pyx", ".pxd", ".pyi", ".pxi", ".h")

CYTHON_IMPORT = re.compile(r"^\s*(?:from|c?import)\s+(netstack[\w.]*)", re.MULTILINE)


def tracked() -> list[Path]:
    """Return the files git tracks, relative to the root; none outside a git checkout."""
    return _git_files()


def project_files() -> list[Path]:
    """Return the files of the project: tracked, or new and not ignored; absolute paths."""
    listed = _git_files("--cached", "--others", "--exclude-standard")
    found = [ROOT / name for name in listed] or [*PACKAGE.rglob("*"), *ROOT.glob("tests/**/*")]
    return sorted(path for path in found if path.is_file())


def package_files(*suffixes: str) -> list[Path]:
    """Return netstack's own sources with one of the suffixes (all source suffixes if none)."""
    wanted = suffixes or SOURCE_SUFFIXES
    return [p for p in project_files() if p.is_relative_to(PACKAGE) and p.suffix in wanted]


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package, without the leading ``netstack.``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(path: Path) -> set[str]:
    """Return every module name the file imports, at any depth of its code.

    What stands under ``if TYPE_CHECKING:`` never runs and does not count.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(CYTHON_IMPORT.findall(text))
    names: set[str] = set()
    for node in _running_nodes(ast.parse(text, str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["netstack", *module_name(path).split(".")]
                keep = len(package) - node.level + (path.name == "__init__.py")
                base = ".".join([*package[:keep], *filter(None, [base])])
            names.update(_imported_modules(base, [alias.name for alias in node.names]))
    return names


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below ``node`` without the bodies of ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _running_nodes(child)


def _imported_modules(base: str, names: list[str]) -> set[str]:
    """Tell ``from package import module`` from ``from module import name``."""
    folder = ROOT.joinpath(*base.split("."))
    if not base.startswith("netstack") or not folder.is_dir():
        return {base}
    found = set()
    for name in names:
        is_module = any((folder / f"{name}{suffix}").exists() for suffix in ("", ".py", ".pyx"))
        found.add(f"{base}.{name}" if is_module else base)
    return found


def _git_files(*options: str) -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [Path(name) for name in listed.split("\0") if name]
