"""Only the C extension; everything else about the package is in pyproject.toml."""

import sysconfig

from setuptools import setup

# One wheel serves every CPython of a platform, but for free-threaded builds,
# which have no stable ABI yet.
stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["csrc/build_wakeup.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if stable_abi else {},
)
