"""The versions and the machine that a run was made with, so that it can be repeated."""

import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata

from wardround import __version__

_PACKAGES = ("torch", "numpy", "scipy", "dp-accounting", "pillow", "safetensors", "cryptography")


def threads_of(environment: Mapping[str, object]) -> int:
    """Returns the threads that a run began with, by its record; 1 where it does not say."""
    threads = environment.get("threads")
    return threads if isinstance(threads, int) and threads > 0 else 1


def device_in(environment: Mapping[str, object]) -> str:
    """Returns the device that a run began on, by its record; the processor where it does not say."""
    return "cuda" if environment.get("device") == "cuda" else "cpu"


def describe_environment(threads: int) -> dict[str, object]:
    """Returns the date (UTC), versions and machine, as JSON; no host name, no user, no path."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "wardround": __version__,
        "python": sys.version.split()[0],
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
