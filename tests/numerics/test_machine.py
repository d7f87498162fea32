"""What the process holds: freed arrays go back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

_FREE_ARRAYS = """
import numpy as np
from rankme_stream.numerics import machine
machine.return_freed_memory()
np.ones(2**21)  # freed at once; from here on glibc would keep arrays of up to 16 MiB
before = machine.resident_bytes()
arrays, last = [np.ones(2**20) for _ in range(8)], [0] * 1000
del arrays
print(machine.resident_bytes() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such setting")
def test_freed_arrays_go_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", _FREE_ARRAYS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**22
