"""Builds ``channels_lite/wake/_wakeup.abi3.so``; called by setuptools through cffi."""

import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffi = FFI()
ffi.cdef((HERE / "wakeup.h").read_text(encoding="utf-8"))
ffi.set_source(
    "channels_lite.wake._wakeup",
    '#include <stdint.h>\n#include "wakeup.h"',
    sources=["csrc/hooks.c", "csrc/wake.c"],
    include_dirs=["csrc"],
    depends=["csrc/wakeup.h"],
    libraries=["dl"] if sys.platform == "linux" else [],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    # A machine without a compiler still gets the package; the notify layer
    # then polls and says so.
    optional=True,
)
