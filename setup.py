"""The one extension module; everything else about the package stands in pyproject.toml.

STARCORE_DEBUG=1 builds it with bounds checks, None checks and line tracing.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("STARCORE_DEBUG", "") not in {"", "0"}

setup(
    ext_modules=cythonize(
        [
            Extension(
                "starcore._framing",
                ["starcore/_framing.pyx"],
                define_macros=[("CYTHON_TRACE", "1")] if DEBUG else [],
                extra_compile_args=["-O0", "-g"] if DEBUG else ["-O2"],
            )
        ],
        force=DEBUG,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "nonecheck": DEBUG,
            "linetrace": DEBUG,
        },
    ),
)
