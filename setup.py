"""Only the C extension; everything else about the package is in pyproject.toml."""

import re
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

# One wheel serves every CPython of a platform, but for free-threaded builds: their stable ABI
# (PEP 803) begins with Python 3.15, and cffi does not build for it yet.
has_stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildExtension(build_ext):
    """Names the module so that every Python that the wheel is tagged for imports it."""

    def get_ext_filename(self, fullname: str) -> str:
        """From Python 3.15 on the suffix has the platform in it; older ones look for no such."""
        return re.sub(r"\.abi3-[^./]*\.so$", ".abi3.so", super().get_ext_filename(fullname))


setup(
    cffi_modules=["csrc/build_wakeup.py:ffi"],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if has_stable_abi else {},
)
