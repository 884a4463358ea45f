"""Only the C extension; everything else about the package is in pyproject.toml."""

import re
import sys
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

# The oldest Python that a wheel serves, with all later ones of its kind.  Free-threaded ones have
# a stable ABI of their own (PEP 803), from 3.15 on; a wheel for 3.14t serves 3.14t alone.
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    oldest = "cp310"
elif sys.version_info >= (3, 15):
    oldest = "cp315"
else:
    oldest = ""


class BuildExtension(build_ext):
    """Names the module so that every Python that the wheel is tagged for imports it."""

    def get_ext_filename(self, fullname: str) -> str:
        """From Python 3.15 on the suffix has the platform in it; older ones look for no such."""
        return re.sub(r"\.abi3-[^./]*\.so$", ".abi3.so", super().get_ext_filename(fullname))


setup(
    cffi_modules=["csrc/build_wakeup.py:ffi"],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": oldest}} if oldest else {},
)
