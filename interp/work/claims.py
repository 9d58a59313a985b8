"""Who computes what now: a file for each piece of work in hand, so that processes with one folder do not do it twice.

A claim saves work and guards no result: parts are the same whoever computes them and are written whole, so two
processes that hold one claim waste time and no more. It holds machine, process and the process's start, and is touched
every few seconds. One is taken over when its process is dead, or, on another machine, when it has not been touched for
two minutes by the clock of whoever looks: clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from interp.work.processes import alive, machine, start_of, temporary

BEAT, STALE = 10.0, 120.0
"""Seconds between two touches of a claim, and until one that nobody touches is taken over."""
_HELD: set[Path] = set()
_BEATING: list[threading.Thread] = []


class Claims:
    """The claims in a folder, which is made when the first is taken."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[str, tuple[tuple[bytes, int], float]] = {}

    def take(self, name: str) -> bool:
        """Whether the work of that name is now this process's; it is not while another that lives computes it."""
        path = self.folder / name
        for _ in range(2):
            if _made(path):
                _HELD.add(path)
                _beat()
                return True
            if (found := self._gone(name)) is None:
                return False
            _set_aside(path, found)
        return False

    def release(self, name: str) -> None:
        """Lets the work of that name go, done or not; nothing, if it has been taken over."""
        path = self.folder / name
        _HELD.discard(path)
        if _read(path) == _me():
            path.unlink(missing_ok=True)

    def free(self, name: str) -> bool:
        """Whether nobody that lives holds the work of that name."""
        return self._gone(name) is not None

    def holder(self, name: str) -> str:
        """Machine and process that hold it, for people to read; empty if nobody does."""
        host, process, *_ = [*(_read(self.folder / name) or b"").decode(errors="replace").split(), "", ""]
        return f"process {process} on {host.rpartition('-')[0]}" if process else ""

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Inside, no other process holds it; waits for one that does."""
        while not self.take(name):
            time.sleep(0.2)
        try:
            yield
        finally:
            self.release(name)

    def living(self) -> list[str]:
        """The names that other processes hold; claims of dead ones are removed."""
        names = [path.name for path in self.folder.glob("*") if path.is_file() and not path.name.startswith(".")]
        names = [name for name in names if _read(self.folder / name) != _me()]
        for name in names:
            if (found := self._gone(name)) is not None:
                _set_aside(self.folder / name, found)
        return [name for name in names if (self.folder / name).exists()]

    def forget(self, host: str, process: int) -> None:
        """Removes the claims of a process that is known to be dead, on whatever machine it was."""
        for path in self.folder.glob("*"):
            if path.is_file() and (held := _read(path)) and held.startswith(f"{host} {process} ".encode()):
                _set_aside(path, held)

    def clear(self) -> None:
        """Removes the folder, unless others are at work."""
        if not self.living():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _gone(self, name: str) -> bytes | None:
        """What the claim holds, if its process is gone (nothing, if there is no claim); None if it lives."""
        try:
            with open(self.folder / name, "rb") as file:  # opened anew: a network's cache may know an old time
                held, touched = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return b""
        host, process, started, *_ = [*held.decode(errors="replace").split(" "), "", "", ""]
        if host == machine() and process.isdecimal():
            return None if alive(int(process), started) else held
        known, since = self._seen.get(name, (None, 0.0))
        if known != (held, touched):
            self._seen[name] = (held, touched), time.monotonic()
            return None
        return held if time.monotonic() - since > STALE else None


def _me() -> bytes:
    return f"{machine()} {os.getpid()} {start_of(os.getpid())}".encode()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _made(path: Path) -> bool:
    """Whether the claim was not there and is now this process's."""
    try:
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    except FileNotFoundError:  # the folder is new, or whoever finished has just removed it
        path.parent.mkdir(parents=True, exist_ok=True)
        return _made(path)
    try:
        os.write(opened, _me())
    finally:
        os.close(opened)
    return True


def _set_aside(path: Path, judged: bytes) -> None:
    """Removes a claim that holds what was judged; one that another has made in its place in between is put back."""
    aside = temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if aside.read_bytes() != judged:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _beat() -> None:
    """Starts to touch what this process holds, in a thread that ends with it."""
    if not _BEATING:
        _BEATING.append(threading.Thread(target=_touch, name="claims", daemon=True))
        _BEATING[0].start()


def _touch() -> None:
    while True:
        time.sleep(BEAT)
        for path in list(_HELD):
            with contextlib.suppress(OSError):
                os.utime(path)


def _forget() -> None:
    _HELD.clear()
    _BEATING.clear()


os.register_at_fork(after_in_child=_forget)
