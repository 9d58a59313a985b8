"""Run folders: atomic, resumable, self-describing.

    manifest.json        arguments, versions, hash of the weights, seed, times, what was skipped and why
    parts/KEY.npz        one finished piece of work each (a sample, a batch); what a restart does not compute again
    claims/              who computes what now, where several processes work (`interp.work.claims`); gone at the end
    *.parquet            tables; they hold no times, so a run that was killed and resumed gives the same bytes
    figures/, report.html

Whatever is written appears whole or not at all: temporary file, fsync, rename. Parts carry a SHA-256 and are checked
when they are read; a damaged one counts as missing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zipfile import BadZipFile

import numpy as np

from interp.report.folder import RunConflict, check_inside, check_place, clear, read_manifest, refuse_foreign
from interp.work.claims import Claims
from interp.work.files import sweep, write_bytes, writing
from interp.work.store import NOTHING_SCORED
from interp.work.versions import versions

if TYPE_CHECKING:
    import pandas as pd


_DIGEST = hashlib.sha256().digest_size


class Run:
    """A run folder. ``get`` and ``put`` make it the ``store`` of a ranking."""

    in_background = True
    """``put`` may be called from another thread (`interp.work.ahead.behind`)."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.claims = Claims(folder / "claims")
        self.drawn: dict[str, Any] = {}
        """How figures are written beside the report's: see `interp.report.figures.save`."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        arguments: Mapping[str, Any],
        *,
        weights: str | None = None,
        seed: int = 0,
        force: bool = False,
        places: Sequence[str] = (),
        joins: bool = False,
    ) -> Run:
        """A new run, or the one that was begun in this folder with the same arguments; ``force`` starts over.
        ``places`` are arguments that may change: what lies there is compared otherwise. ``joins``: as one of several
        workers, of which the first has begun the run and told so in its manifest.

        Raises:
            RunConflict: the folder holds a run with other arguments, weights or versions, or files of something else.
        """
        folder = Path(folder)
        check_place(folder)
        identity = json.loads(json.dumps({"arguments": dict(arguments), "weights": weights, "versions": versions()}))
        if force:
            clear(folder)
        old = read_manifest(folder)
        if old is None:
            refuse_foreign(folder)
            manifest = {**identity, "seed": seed, "started": _now(), "resumed": [], "finished": None, "skipped": []}
        else:
            moved = {name: identity["arguments"][name] for name in places}
            old = {**old, "arguments": {**old["arguments"], **moved}}
            _refuse_other(folder, old, identity)
            manifest = {**old, "resumed": [*old["resumed"], _now()], "finished": None}
        check_inside(folder)
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        sweep(folder)
        sweep(folder / "parts")
        run = cls(folder, manifest)
        if not joins:
            run.save_manifest()
        return run

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """The run in this folder as it is, for looking at its results.

        Raises:
            FileNotFoundError: the folder holds no run.
        """
        try:
            manifest = read_manifest(Path(folder))
        except RunConflict as error:
            raise ValueError(
                f"{folder} holds no run that can be read: {error.__cause__!r:.200}; make it anew"
            ) from error
        if manifest is None:
            raise FileNotFoundError(
                f"{folder} holds no run (no readable manifest.json); expected a folder made by --out"
            )
        return cls(Path(folder), manifest)

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under the key; None if there are none or the file is damaged."""
        try:
            data = self._part(key).read_bytes()
        except FileNotFoundError:
            return None
        body, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(key.encode() + b"\0" + body).digest() != digest:
            return None
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores the arrays under the key, in place of any that were there.

        Raises:
            TypeError: an array of Python objects.
        """
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in plain.items():
            if array.dtype.hasobject:
                raise TypeError(f"part {key!r}: {name!r} is an array of Python objects, expected numbers or strings")
        buffer = io.BytesIO()
        np.savez(buffer, **plain)  # type: ignore[arg-type]
        body = buffer.getvalue()
        # The digest follows the archive, which NumPy still opens; the key in it tells a renamed part.
        write_bytes(self._part(key), body + hashlib.sha256(key.encode() + b"\0" + body).digest())

    def drop(self, key: str) -> None:
        """Takes away what is stored under the key, if anything is."""
        self._part(key).unlink(missing_ok=True)

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """The path of ``NAME.parquet``, written from the frame without its index."""
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        path = self.folder / f"{name}.parquet"
        write_bytes(path, buffer.getvalue())
        return path

    def write_pieces(self, name: str, pieces: Iterable[pd.DataFrame], rows: int) -> Path:
        """The path of ``NAME.parquet``, written piece by piece: one of less than ``rows`` rows as by `write_table`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, held, writer = self.folder / f"{name}.parquet", [], None
        with writing(path) as temporary, ExitStack() as open_files:
            for table in (pa.Table.from_pandas(piece, preserve_index=False) for piece in pieces):
                if writer is None:
                    writer = open_files.enter_context(pq.ParquetWriter(temporary, table.schema, compression="snappy"))
                if held and sum(map(len, held)) + len(table) > rows:
                    writer.write_table(pa.concat_tables(held))
                    held = []
                held.append(table)
            if writer is not None:
                writer.write_table(pa.concat_tables(held))
        return path

    def read_table(self, name: str) -> pd.DataFrame:
        """The frame of ``NAME.parquet``.

        Raises:
            FileNotFoundError, ValueError: it is not there, or damaged.
        """
        import pandas as pd

        path = self.folder / f"{name}.parquet"
        again = "give the command of that run once more, which keeps what is finished"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: a run that is not finished, or of another kind; {again}")
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error!s:.200}); {again}") from error

    def finish(self, skipped: Sequence[Mapping[str, str]] = ()) -> None:
        """Marks the run as finished and records what was skipped: ``sample_id`` and ``reason`` each."""
        self.manifest.update(finished=_now(), skipped=[dict(s) for s in skipped])
        self.save_manifest()

    def withdraw(self) -> None:
        """Takes a run away that this process began, that no other has joined, and in which nothing was scored: then the
        corrected command may begin in the same folder."""
        self.claims.clear()
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        told = read_manifest(self.folder) or {}
        new = not self.manifest["resumed"] and not told.get("resumed") and self.manifest["finished"] is None
        if new and names == {"manifest.json", "parts"} and not any(map(_scored, (self.folder / "parts").glob("*.npz"))):
            clear(self.folder)

    def save_manifest(self) -> None:
        """Writes ``manifest.json`` as it is in memory."""
        write_bytes(self.folder / "manifest.json", (json.dumps(self.manifest, indent=2) + "\n").encode())

    def _part(self, key: str) -> Path:
        name = quote(key, safe="")
        if len(name) > 120:
            name = name[:60] + "-" + hashlib.sha256(key.encode()).hexdigest()
        return self.folder / "parts" / f"{name}.npz"


def _scored(part: Path) -> bool:
    """Whether a part holds more than the reasons why its samples were skipped."""
    try:
        with np.load(part, allow_pickle=False) as arrays:
            return NOTHING_SCORED not in arrays.files
    except (OSError, ValueError, BadZipFile):
        return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse_other(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differences = []
    for part in ("arguments", "versions"):
        for name in sorted({*old[part], *new[part]}):
            before, now = old[part].get(name), new[part].get(name)
            if before != now and not (name == "model" and _moved(before, now)):
                differences.append(f"{name} was {before!r}, now {now!r}")
    if old.get("weights") != new["weights"]:
        differences.append(f"weights were {str(old.get('weights'))[:12]}, now {str(new['weights'])[:12]}")
    if differences:
        raise RunConflict(
            f"{folder} holds another run: {'; '.join(differences)}. "
            "Give the same arguments to resume it, another --out to keep it, or --force to throw it away and start over"
        )


def _moved(before: Any, now: Any) -> bool:
    """Whether they are one place below the shipped models: runs used to hold its whole path, which changes with the
    folder that the repository lies in. What lies there is compared by its hash."""
    return isinstance(before, str) and isinstance(now, str) and bool(now) and before.endswith(f"/{now}")
