"""The C++ compiler of the machine: whether there is one, and compiling a kernel with it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from lossnav.acceleration.trace_graph import NotReadableError

_COMPILER_SECONDS = 120

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")


def can_compile() -> bool:
    """Whether there is a C++ compiler."""
    return compiler_path() is not None


@cache
def compiler_path() -> str | None:
    """Return the path of the C++ compiler: that of the variable CXX, or one of the usual names."""
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in (named, "c++", "g++", "clang++") if name)
    return next((path for path in found if path), None)


@cache
def processor() -> str:
    """Describe the processor: a kernel compiled on it runs only on processors like it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        features = [platform.processor()]
    return "\n".join([platform.system(), platform.machine(), *features])


def compile_source(source: str, path: Path) -> None:
    """Compile a source into a library file, which appears complete or not at all.

    Raises
    ------
    NotReadableError
        If there is no compiler, or it fails.
    """
    compiler = compiler_path()
    if compiler is None:
        raise NotReadableError("there is no C++ compiler")
    native = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            code, unlinked, made = (Path(folder) / f"kernel.{ending}" for ending in ("cpp", "o", "so"))
            code.write_text(source)
            # linked without OpenMP, so that its symbols come from the library that torch has loaded, with its threads
            for step in (
                [*FLAGS, native, "-c", str(code), "-o", str(unlinked)],
                ["-shared", str(unlinked), "-o", str(made)],
            ):
                subprocess.run([compiler, *step], check=True, capture_output=True, timeout=_COMPILER_SECONDS)
            made.replace(path)
    except subprocess.CalledProcessError as error:
        output = error.stderr.decode(errors="replace").splitlines() or ["no reason given"]
        raise NotReadableError(f"the compiler failed: {output[0][:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotReadableError(f"the kernel could not be compiled: {error}") from None
