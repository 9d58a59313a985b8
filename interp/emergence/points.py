"""One checkpoint of a series: where it lies, what its files hold (from their headers alone), and its digest."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from interp.models._config import read_index
from interp.models._folder import ADAPTER_CONFIG, OLD_ADAPTER, TRAINED, Kind, check_all_read, contents, files_in
from interp.models._original import layout
from interp.models._original.names import own_name
from interp.models._original.parts import projector_beside_adapter
from interp.models._stored import WHOLE, tensors_in

STAGES = {"projector": "projector", "adapter": "language model", "full": "whole model"}


@dataclass(frozen=True)
class Header:
    """One tensor in a file: its file's name, type as safetensors spells it, shape and size in bytes."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Point:
    """One checkpoint of a series.

    ``place`` is a folder or a hub id (with ``revision``). ``kind``: ``projector`` alone; ``adapter``: a PEFT adapter,
    with or without a projector; ``full``: all weights. ``tensors``: what its files hold, by the files' own names; the
    base keeps everything else. ``damaged`` says what is wrong with it, empty if nothing is.
    """

    step: int
    place: str
    revision: str | None = None
    kind: Kind = "full"
    tensors: Mapping[str, Header] = None  # type: ignore[assignment]
    damaged: str = ""

    @property
    def stage(self) -> str:
        """What is trained in it: ``projector``, ``language model`` (an adapter), or ``whole model``."""
        return STAGES[self.kind]

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of the weights that differ from the base's, as far as the headers tell: all of a full checkpoint's."""
        names = map(own_name, self.tensors or {})
        return tuple(sorted({re.sub(r"\.lora_[AB]\.weight$", ".weight", name) for name in names}))

    def folder(self) -> Path:
        """Where its files lie; fetched from the hub first if they are not here."""
        return fetched(self.place, self.revision)

    def digest(self) -> str:
        """SHA-256 over its files' names, sizes and bytes."""
        files = {header.file for header in self.tensors.values()} | {ADAPTER_CONFIG}
        there = [path for name in sorted(files) if (path := self.folder() / name).is_file()]
        return digest_of(there)


def point_of(step: int, place: str, revision: str | None) -> Point:
    point = Point(step, place, revision, tensors={})
    try:
        kind, files = files_of(place, revision)
        point = replace(point, kind=kind)
        check_all_read(place, _listed(place, revision), kind, set(files))
        return replace(point, tensors={k: h for file in files for k, h in header_of(place, revision, file).items()})
    except Exception as error:  # files may hold anything
        return replace(point, damaged=f"{type(error).__name__}: {error}")


def files_of(place: str, revision: str | None) -> tuple[Kind, list[str]]:
    """The kind of checkpoint and the files that hold its weights.

    Raises:
        FileNotFoundError: no checkpoint, or one that lacks a file.
    """
    there = _listed(place, revision)
    kind, files = _original(place, revision, there) or contents(place, there)
    if not files[0].endswith(".index.json"):
        return kind, files
    from huggingface_hub import hf_hub_download

    first = files[0]
    index = Path(place, first) if Path(place).is_dir() else Path(hf_hub_download(place, first, revision=revision))
    files = sorted(set(read_index(index).values()))
    if lost := sorted(set(files) - there):
        raise FileNotFoundError(f"{place} lacks {', '.join(lost)}, which its index names; fetch or save it again")
    return kind, files


def _original(place: str, revision: str | None, there: Set[str]) -> tuple[Kind, list[str]] | None:
    """The same of a checkpoint of LLaVA's own code, where that differs: a projector may lie beside a whole model, whose
    it is not, and may not be missing beside an adapter. None for all others.

    Raises:
        interp.models._original.layout.OriginalLayout: an adapter without the projector that was trained with it.
    """
    config = layout.config_of(place, revision=revision)
    if config is None:
        return None
    if ADAPTER_CONFIG in there:
        projector_beside_adapter(place, config)
        return None
    first = next((name for name in WHOLE if name in there), None)
    return ("full", [first]) if first else None


def _listed(place: str, revision: str | None) -> set[str]:
    if folder := local(place, revision):
        return files_in(folder)
    from huggingface_hub import HfApi

    return set(HfApi().list_repo_files(place, revision=revision))


def header_of(place: str, revision: str | None, file: str) -> dict[str, Header]:
    """The file's tensors, from its header; of a hub's file nothing else is fetched."""
    folder = local(place, revision)
    if folder is None and file.endswith(".bin"):
        folder = fetched(place, revision)
    if folder is None:
        from huggingface_hub import parse_safetensors_file_metadata

        tensors = parse_safetensors_file_metadata(place, file, revision=revision).tensors
        return {
            k: Header(file, t.dtype, tuple(t.shape), t.data_offsets[1] - t.data_offsets[0]) for k, t in tensors.items()
        }
    if file.endswith(".bin"):
        return {k: Header(file, str(t.dtype), t.shape, t.bytes) for k, t in tensors_in(folder / file).items()}
    try:
        with safe_open(folder / file, "pt"):  # checks that the file has the length that its header states
            pass
    except SafetensorError as error:
        raise ValueError(f"{folder / file} is damaged ({error}); fetch or save it again") from error
    with open(folder / file, "rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    head.pop("__metadata__", None)
    return {
        k: Header(file, t["dtype"], tuple(t["shape"]), t["data_offsets"][1] - t["data_offsets"][0])
        for k, t in head.items()
    }


def local(place: str, revision: str | None = None) -> Path | None:
    """The folder, or the hub repository's snapshot if it is in the cache; None if it must be fetched."""
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(place, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def fetched(place: str, revision: str | None = None) -> Path:
    """The folder with the checkpoint's files, from the hub if need be."""
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", *TRAINED, OLD_ADAPTER]
    if layout.config_of(place, revision=revision) is not None:
        wanted += ["pytorch_model*.bin", "tokenizer.model"]
    return Path(snapshot_download(place, revision=revision, allow_patterns=wanted))


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 over the files' names, sizes and bytes. In one process a file is read again only if it changed."""
    return _digest(tuple((path, *_state(path)) for path in files))


def _state(path: Path) -> tuple[int, ...]:
    """Size, times and place on the disk: a copy that keeps the time of writing has another time of change."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


@functools.lru_cache(maxsize=4096)
def _digest(files: tuple[tuple[Path, int, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, *_ in files:
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()
