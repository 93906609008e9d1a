"""Another Cython package can cimport the kernels: inlines, structures and classes (docs/style.md)."""

import os
import subprocess
import sys
import textwrap

import netstack

SOURCE = '''
from libc.stdint cimport uint64_t
from netstack._fast.etherhdr cimport ether_dst, ether_is_group
from netstack._fast.mbuf cimport MbufVec
from netstack._fast.txq_select cimport txq_round_robin


def destinations(MbufVec mv not None):
    """The destination key of each frame, read in place."""
    cdef unsigned i
    return [ether_dst(mv.vec.m[i].m_data) for i in range(mv.vec.n)]


def groups(MbufVec mv not None):
    return [bool(ether_is_group(key)) for key in destinations(mv)]


def queue(int cpu, int count):
    return txq_round_robin(cpu, count)
'''

BUILD = '''
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup
import netstack

setup(
    name="outsider",
    script_args=["build_ext", "--inplace"],
    ext_modules=cythonize(
        [Extension("outsider", ["outsider.pyx"], include_dirs=[netstack.get_include()])],
        language_level=3,
    ),
)
'''

USE = '''
import outsider
from netstack._fast.mbuf import MbufPool, MbufVec

mv = MbufVec(MbufPool(64, 1), 0)
mv.append(bytes.fromhex("020000000001") + bytes(54))
mv.append(bytes.fromhex("ffffffffffff") + bytes(54))
assert outsider.destinations(mv) == [0x010000000002, 0xFFFFFFFFFFFF], outsider.destinations(mv)
assert outsider.groups(mv) == [False, True]
assert [outsider.queue(cpu, 4) for cpu in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
'''


def test_a_package_of_others_compiles_against_the_kernels(tmp_path):
    (tmp_path / "outsider.pyx").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "build.py").write_text(BUILD)
    (tmp_path / "use.py").write_text(USE)
    # what this interpreter imports netstack from, installed or not, is what the others get
    above = os.path.dirname(os.path.dirname(os.path.abspath(netstack.__file__)))
    env = {**os.environ, "PYTHONPATH": above, "CFLAGS": "-O1"}
    for script in ("build.py", "use.py"):
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
