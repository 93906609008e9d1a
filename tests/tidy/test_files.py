"""Rules about files: length, stubs, nothing generated, the project speaks of itself alone."""

import re
from pathlib import Path

import pytest
from tidy.tree import PACKAGE, ROOT, package_files, project_files, tracked

LINES_MAX = 500

GENERATED = re.compile(r"\.(so|o|pyc)$|^build/|^dist/|\.egg-info/|(^|/)__pycache__/")
TRANSLATED = re.compile(r"^netstack/.*\.(c|html)$")

# Folders of one machine, hosts of package registries, and talk about how the text came to be.  One
# letter of each is a character class, so that this file does not hold what it forbids.
FOREIGN = re.compile(
    r"/wor[k]/|/far[m]/|/roo[t]/\.pyenv|deb\.debia[n]\.org|pyp[i]\.org|files\.pythonhoste[d]"
    r"|registry\.npmj[s]|\bLL[M]\b|\bClaud[e]\b|\bGP[T]\b|AI assistan[t]"
    r"|(this|previous) sessio[n]"
)


@pytest.mark.parametrize("path", package_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= LINES_MAX, f"{count} lines: split it by idea"


@pytest.mark.parametrize("path", package_files(".pyx"), ids=lambda p: str(p.relative_to(ROOT)))
def test_compiled_module_has_a_stub(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()


def test_no_generated_file_is_tracked() -> None:
    names = [path.as_posix() for path in tracked()]
    assert not [name for name in names if GENERATED.search(name) or TRANSLATED.search(name)]


def test_the_project_speaks_of_itself_alone() -> None:
    found = []
    for path in project_files():
        if path.suffix == ".svg":
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        hits = [number for number, line in enumerate(lines, 1) if FOREIGN.search(line)]
        found += [f"{path.relative_to(ROOT)}:{number}" for number in hits]
    assert not found


def test_the_pattern_finds_what_it_forbids() -> None:
    assert FOREIGN.search("see " + "/".join(["", "work", "main"]))
    assert not FOREIGN.search("the framework's session")


def test_every_module_is_in_the_paper_map() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    ours = [p for p in package_files(".py", ".pyx") if not p.name.startswith("__")]
    names = [path.relative_to(PACKAGE).as_posix() for path in ours]
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_paper_map_names_no_file_that_is_gone() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.pyx?)`", text))
    roots = (PACKAGE, ROOT)
    assert not [name for name in named if not any((root / name).exists() for root in roots)]
