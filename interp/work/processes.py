"""Which process wrote a file: its machine and number, as they stand in names of temporary files and in claims."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import uuid
from functools import lru_cache
from pathlib import Path


@lru_cache
def machine() -> str:
    """The machine's name, with eight letters that tell its starts and containers apart: only inside of one do numbers
    of processes mean the same."""
    told = [str(uuid.getnode())]
    with contextlib.suppress(OSError):
        told = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    name = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "machine"
    return f"{name}-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:8]}"


def temporary(path: Path) -> Path:
    """A hidden file beside the path for this process to write to; `writer` reads its name."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.tmp")


def writer(temporary: Path) -> tuple[str, int]:
    """Machine and process of a temporary file; an empty name and 0 where it does not say."""
    parts = temporary.name.split(".")
    return (parts[-3], int(parts[-2])) if len(parts) > 4 and parts[-2].isdecimal() else ("", 0)


def alive(process: int, started: str = "") -> bool:
    """Whether the process of this machine still runs; with ``started`` (`start_of`) not another of the same number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not started or started == start_of(process)


def start_of(process: int) -> str:
    """When the process began, in ticks since the machine's start; empty for one that is dead, or where it cannot be
    told."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
