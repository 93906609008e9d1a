"""Build of the compiled kernels: one table of extensions, one set of directives.

Metadata lives in ``pyproject.toml``.  What is decided here is how ``netstack/_fast`` is compiled:

* modules of ``PLAIN`` are compiled once, for the baseline of the processor family;
* modules of ``PER_LEVEL`` are compiled once per row of ``LEVELS`` from the same source, and
  ``netstack._fast`` picks a level when it is imported.

Environment, read at build time only:

* ``NETSTACK_CHECKED=1``: asserts, bounds checks and accounting in every module;
* ``NETSTACK_SANITIZE=address`` (and undefined behaviour) or ``thread``: gcc's sanitizers in every
  module, compiled once with ``-O1``; run with ``tests/sanitize/run.py``;
* ``NETSTACK_OPTIMIZE=g``: another optimisation level than the build's own, for the sanitizers;
* ``CC``, ``CFLAGS`` as usual.

Generated C and objects land under ``build/`` in a folder per variant, never beside the sources.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

PACKAGE = "netstack._fast"
SOURCES = Path("netstack/_fast")
RECORD = "build.json"  # what was built and how, beside the modules

# Modules compiled once: name = source stem.
PLAIN = (
    "dispositions",
    "mbuf",
    "ifqueue",
    "queue",
    "txq_select",
    "mactable",
    "macchain",
    "pserialize",
    "lock",
    "dring",
    "rss",
    "intr",
    "cpu",
    "ifnet",
    "bridge",
    "wire",
    "probe",
    "hostport",
    "xdp",
    "pcq",
    "chooser",
    "torture",
    "torture_rings",
    "torture_cpus",
    "torture_table",
)

# Modules compiled once per level: kernels.pyx becomes kernels_v2, kernels_v3, kernels_explore.
# The module's name differs from the source's, so Cython does not merge kernels.pxd into it: that
# header may hold inlines and types only, and kernels.pyx cimports them from it like anyone else.
PER_LEVEL = ("kernels", "chain")

# Modules compiled with the explorer's hooks and planted errors; not in sanitized builds.
EXPLORERS = ("explore",)
EXPLORER_FLAGS = ["-DNETSTACK_EXPLORE=1", "-DNETSTACK_MUTANTS=1"]

IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64")

# Level name -> extra compiler flags.  "v2" is the portable baseline on other processors.
LEVELS = (
    {
        "v2": ["-march=x86-64-v2"],
        "v3": ["-march=x86-64-v3"],
        "explore": ["-march=x86-64-v2", "-DNETSTACK_EXPLORE=1"],
    }
    if IS_X86_64
    else {"v2": [], "explore": ["-DNETSTACK_EXPLORE=1"]}
)

CHECKED = os.environ.get("NETSTACK_CHECKED", "") not in ("", "0")
SANITIZE = os.environ.get("NETSTACK_SANITIZE", "")
# -fno-wrapv undoes what Python's own flags ask for: a sum beyond int is an error here.
SANITIZERS = {
    "": [],
    "address": ["-fsanitize=address,undefined", "-fno-wrapv"],
    "thread": ["-fsanitize=thread"],
}
if SANITIZE not in SANITIZERS:
    raise SystemExit(f"NETSTACK_SANITIZE={SANITIZE}: expected 'address' or 'thread'")
OPTIMIZE = os.environ.get("NETSTACK_OPTIMIZE", "") or ("1" if SANITIZE else "3")
VARIANT = "-".join(
    ["checked" if CHECKED else "release"]
    + ([SANITIZE] if SANITIZE else [])
    + ([f"O{OPTIMIZE}"] if OPTIMIZE != "3" else [])
)
if SANITIZE:
    LEVELS.pop("v3", None)  # the same source with wider words

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "cdivision": True,
    "embedsignature": False,
    "binding": True,
    "freethreading_compatible": True,
}

COMPILE_FLAGS = [f"-O{OPTIMIZE}", "-pthread", "-fno-strict-aliasing", "-fvisibility=hidden"]
# Noise of generated C: inlines this module does not call, messages of asserts compiled out, loops.
COMPILE_FLAGS += ["-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-sign-compare"]
COMPILE_FLAGS += ["-g1"] if CHECKED or SANITIZE else ["-g0"]
LINK_FLAGS = ["-pthread"]
if CHECKED:
    COMPILE_FLAGS += ["-UNDEBUG", "-DNETSTACK_CHECKED=1"]
if SANITIZE:
    COMPILE_FLAGS += [*SANITIZERS[SANITIZE], "-fno-omit-frame-pointer"]
    # two builds for ThreadSanitizer: at -O1 it sees the atomics of spin locks, at -Og the locks
    COMPILE_FLAGS += ["-DNETSTACK_TSAN_LOCKS=1"] if SANITIZE == "thread" and OPTIMIZE == "g" else []
    LINK_FLAGS += SANITIZERS[SANITIZE]

MISSING_TOOLS = (
    "netstack compiles its kernels and needs {what}: install the packages 'gcc python3-dev' "
    "(Debian, Ubuntu) or 'gcc python3-devel' (Fedora), then run the same command again."
)


def extension(name, stem, flags=()):
    """One Extension called ``name`` from ``netstack/_fast/<stem>.pyx``."""
    return Extension(
        f"{PACKAGE}.{name}",
        [str(SOURCES / f"{stem}.pyx")],
        include_dirs=[str(SOURCES)],
        extra_compile_args=[*COMPILE_FLAGS, *flags],
        extra_link_args=LINK_FLAGS,
    )


def extension_groups():
    """Return ``{build folder: [Extension]}``: sources are unique inside a group."""
    groups = {"base": [extension(stem, stem) for stem in PLAIN]}
    if not SANITIZE:
        groups["explorers"] = [extension(stem, stem, EXPLORER_FLAGS) for stem in EXPLORERS]
    for level, flags in LEVELS.items():
        groups[level] = [extension(f"{stem}_{level}", stem, flags) for stem in PER_LEVEL]
    return groups


def check_table():
    """Stop when the table and the folder disagree: a source missing, or one nobody listed."""
    listed = {*PLAIN, *PER_LEVEL, *EXPLORERS}
    there = {path.stem for path in SOURCES.glob("*.pyx")}
    if listed != there:
        raise SystemExit(
            f"setup.py and {SOURCES} disagree: no source for {sorted(listed - there)}, "
            f"not in the table {sorted(there - listed)}"
        )


check_table()
GROUPS = extension_groups()


def job_count():
    """Parallel jobs: the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def build_lock():
    """Let one build at a time work in this checkout's ``build/`` folder."""
    folder = Path("build", VARIANT)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_variant(record):
    """Return the variant that a build record names, or None."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))["variant"]
    except (OSError, ValueError, KeyError):
        return None


class BuildByVariant(build):
    """Keep release, checked and sanitized builds apart, so none reuses another's objects."""

    def finalize_options(self):
        if self.build_base == "build":
            self.build_base = os.path.join("build", VARIANT)
        super().finalize_options()


class BuildKernels(build_ext):
    """Check the tools, translate each group into its own folder, then compile in parallel."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = job_count()

    def run(self):
        with build_lock():
            super().run()
            self.write_build_record()

    def build_extensions(self):
        self.check_tools()
        self.translate()
        super().build_extensions()

    def copy_extensions_to_source(self):
        """Copy what is newer; all of it when the modules in place are of another variant."""
        self.force = self.force or read_variant(SOURCES / RECORD) != VARIANT
        super().copy_extensions_to_source()

    def check_tools(self):
        """Stop with one sentence when there is no compiler or no Python.h."""
        compiler = (getattr(self.compiler, "compiler_so", None) or ["cc"])[0]
        if shutil.which(compiler) is None:
            raise SystemExit(MISSING_TOOLS.format(what=f"a C compiler ('{compiler}' not found)"))
        places = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
        places += self.compiler.include_dirs
        if not any(Path(place, "Python.h").exists() for place in places if place):
            raise SystemExit(MISSING_TOOLS.format(what="the header Python.h"))

    def translate(self):
        """Run Cython on each group and put the C file in place of the .pyx source."""
        from Cython import __version__ as cython_version
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.warning_errors = CHECKED
        by_name = {ext.name: ext for ext in self.extensions}
        for folder, extensions in GROUPS.items():
            translated = cythonize(
                extensions,
                build_dir=os.path.join("build", VARIANT, f"cython-{cython_version}", folder),
                compiler_directives=DIRECTIVES,
                nthreads=min(self.parallel, len(extensions)),
                show_all_warnings=False,
                emit_linenums=bool(SANITIZE),  # reports name lines of the .pyx
            )
            for ext in translated:
                by_name[ext.name].sources = ext.sources
                by_name[ext.name].depends = ext.depends

    def write_build_record(self):
        """Leave a record of this build beside the modules; ``netstack doctor`` shows it."""
        record = {
            "variant": VARIANT,
            "checked": CHECKED,
            "sanitize": SANITIZE or None,
            "compiler": " ".join(self.compiler.compiler_so),
            "flags": COMPILE_FLAGS,
            "levels": LEVELS,
            "modules": sorted(ext.name.rpartition(".")[2] for ext in self.extensions),
        }
        root = Path() if self.inplace else Path(self.build_lib)
        target = root / SOURCES / RECORD
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


setup(
    ext_modules=[ext for group in GROUPS.values() for ext in group],
    cmdclass={"build": BuildByVariant, "build_ext": BuildKernels},
)
