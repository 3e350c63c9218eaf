"""What is known of each image, and how it outlives a kill.

On disk a run is one folder named by its key: `key.json` says what the key is made of, `records.jsonl` grows line by
line, and each chunk's adversarials are one safetensors shard. A chunk counts once its closing line is there; whatever
stands after the last closing line was interrupted and is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from sparring.errors import InputError, RecordsError
from sparring.files import check_writable, write_whole


@dataclass(frozen=True)
class Record:
    """One image. `margin`: how far the nearest verified point stayed from the attacker's goal, in logits (negative
    once the goal was met; None where the model gives no finite logits). `distance` is that of the adversarial.
    `forwards` and `backwards` count every pass spent on the image, verification included. `attacked`: some attack was
    sent to it; one that is wrong from the start, or has its target's label, needs none. `certified`: it was declared to
    be proved, and attacked all the same only if it was drawn for that.
    """

    index: int
    digest: str
    label: int
    prediction: int
    margin: float | None
    broken_by: str | None
    adversarial_prediction: int | None
    distance: float | None
    forwards: int
    backwards: int
    attacked: bool = True
    certified: bool = False


@dataclass(frozen=True)
class Outcome:
    """What one stage learnt about one image. `prediction` and `distance` are those of the verified candidate."""

    index: int
    digest: str
    prediction: int
    margin: float | None
    met: bool
    distance: float
    forwards: int
    backwards: int


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """One stage on one chunk: an outcome per tried image, and the adversarials of those that met the goal."""

    stage: int
    chunk: int
    digest: str
    outcomes: tuple[Outcome, ...]
    indices: Tensor
    adversarials: Tensor | None = field(repr=False)
    rejected: int
    seconds: float
    notes: tuple[str, ...]


class MemoryStore:
    """Keeps results for the life of the process, or, without `keep`, not even that; nothing to resume."""

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep
        self._shards: list[tuple[Tensor, Tensor]] = []

    def load(self, stage: int, chunk: int, digest: str) -> ChunkResult | None:
        """Never has a result."""
        del stage, chunk, digest
        return None

    def save(self, result: ChunkResult) -> None:
        """Keep the adversarials."""
        if self._keep and result.adversarials is not None and len(result.indices):
            self._shards.append((result.indices, result.adversarials))

    def portable(self, result: ChunkResult) -> ChunkResult:
        """What another process must be sent of it: without the adversarials where nobody keeps them."""
        return result if self._keep else replace(result, adversarials=None)

    def remember(self, result: ChunkResult) -> None:
        """Take over another process's result."""
        self.save(result)

    def adversarials(self) -> dict[int, tuple[Any, int]]:
        """Index of the image -> (shard, row)."""
        return {int(index): (shard, row) for ids, shard in self._shards for row, index in enumerate(ids)}

    def close(self) -> None:
        """Nothing to close."""


class DiskStore:
    """Append-only records of one run in `folder/<key>`; locked against a second process. Without `keep` the verdicts
    are stored and the adversarials are not; that is another run than one that keeps them. Processes that share a run
    write a file each (`rank`) and read them all.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], keep: bool = True, rank: int = 0) -> None:
        self._keep = keep
        text = json.dumps(key if keep else {**key, "keep": False}, sort_keys=True, indent=1)
        self.path = folder.absolute() / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._key = text.encode()
        self._done: dict[tuple[int, int], ChunkResult] = {}
        self._shards: dict[int, tuple[Path, int]] = {}
        self._opened: IO[bytes] | None = None
        self._file = self.path / (f"records-{rank}.jsonl" if rank else "records.jsonl")
        check_writable(self._file)
        for other in sorted(self.path.glob("records*.jsonl")):
            if other != self._file:
                self._read(other)
        if self._file.exists():
            self._open()

    def _open(self) -> IO[bytes]:
        """The records, locked; made on the first call, so that a run that fails at once leaves nothing behind."""
        if self._opened is not None:
            return self._opened
        write_whole(self.path / "key.json", self._key)
        try:
            stream = self._file.open("a+b", buffering=0)
        except OSError as error:
            raise RecordsError(f"cannot open {self._file}: {error.strerror}") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover(stream)
        except BlockingIOError:
            stream.close()
            raise RecordsError(f"{self.path} is in use by another process: wait, or choose another --out") from None
        except BaseException:
            stream.close()
            raise
        self._opened = stream
        return stream

    def load(self, stage: int, chunk: int, digest: str) -> ChunkResult | None:
        """The stored result of this stage and chunk, if its images, labels and targets are the same."""
        found = self._done.get((stage, chunk))
        if found is None or found.digest != digest:
            return None
        self.remember(found)
        return found

    def save(self, result: ChunkResult) -> None:
        """Write the shard whole, then the lines, then the closing line; each on disk before the next."""
        stream = self._open()
        content = b""
        if self._keep and result.adversarials is not None and len(result.indices):
            shard = {"indices": result.indices, "adversarials": result.adversarials.cpu().contiguous()}
            content = safetensors.torch.save(shard)
            write_whole(self._shard(result), content)
        rest = b"".join(_line({"stage": result.stage, **asdict(outcome)}) for outcome in result.outcomes)
        closing = _closing_line(result, content)
        rest += _line({**closing, "checksum": _checksum(rest, closing)})
        start = stream.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError as error:
            os.ftruncate(stream.fileno(), start)
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; what was finished is kept, run again to go on"
            ) from error
        self.remember(result)

    def adversarials(self) -> dict[int, tuple[Any, int]]:
        """Index of the image -> (shard file, row)."""
        return dict(self._shards)

    def close(self) -> None:
        """Release the lock."""
        if self._opened is not None:
            self._opened.close()

    def portable(self, result: ChunkResult) -> ChunkResult:
        """What another process must be sent of it: the adversarials are on disk."""
        return replace(result, adversarials=None)

    def remember(self, result: ChunkResult) -> None:
        """Know where the adversarials of a stored result are, whichever process wrote them."""
        if not self._keep:
            return
        for row, index in enumerate(result.indices.tolist()):
            self._shards[index] = (self._shard(result), row)

    def _shard(self, result: ChunkResult) -> Path:
        return (
            self.path
            / "adversarials"
            / f"stage-{result.stage:02d}-chunk-{result.chunk:06d}-{result.digest[:12]}.safetensors"
        )

    def _recover(self, stream: IO[bytes]) -> None:
        """Read what is complete, cut off the rest."""
        stream.seek(0)
        os.ftruncate(stream.fileno(), self._take(stream.read(), self._file))

    def _read(self, path: Path) -> None:
        """Read what another process has completed."""
        try:
            self._take(path.read_bytes(), path)
        except OSError as error:
            raise RecordsError(f"cannot read {path}: {error.strerror}") from error

    def _take(self, content: bytes, path: Path) -> int:
        """Take over the complete chunks; returns how many bytes they fill."""
        lines = content.splitlines(keepends=True)
        outcomes: list[Outcome] = []
        read = kept = 0
        for number, line in enumerate(lines, start=1):
            read += len(line)
            try:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                if "chunk" in row:
                    if row.pop("checksum") != _checksum(content[kept : read - len(line)], row):
                        raise ValueError("the checksum does not fit")
                    self._close_chunk(row, outcomes)
                    outcomes, kept = [], read
                else:
                    outcomes.append(Outcome(**{f.name: row[f.name] for f in fields(Outcome)}))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number < len(lines):
                    where = f"{path} is damaged at line {number}"
                    raise RecordsError(f"{where}: delete the folder or choose another --out") from error
                break
        return kept

    def _close_chunk(self, row: dict[str, Any], outcomes: list[Outcome]) -> None:
        result = ChunkResult(
            row["stage"],
            row["chunk"],
            row["digest"],
            tuple(outcomes),
            torch.tensor([o.index for o in outcomes if o.met], dtype=torch.int64),
            None,
            row["rejected"],
            row["seconds"],
            tuple(row["notes"]),
        )
        if len(outcomes) != row["tried"]:
            raise ValueError("a chunk lacks lines")
        stored_here = self._keep and row["stage"] > 0 and len(result.indices) > 0
        if not stored_here or _file_digest(self._shard(result)) == row["shard"]:
            self._done[result.stage, result.chunk] = result


def _closing_line(result: ChunkResult, shard: bytes) -> dict[str, Any]:
    return {
        "stage": result.stage,
        "chunk": result.chunk,
        "digest": result.digest,
        "tried": len(result.outcomes),
        "rejected": result.rejected,
        "seconds": round(result.seconds, 6),
        "notes": list(result.notes),
        "shard": hashlib.sha256(shard).hexdigest() if shard else None,
    }


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _checksum(lines: bytes, closing: dict[str, Any]) -> str:
    """Of a chunk's lines and what its closing line says: a changed bit on disk must not become a verdict."""
    return hashlib.sha256(lines + json.dumps(closing, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
