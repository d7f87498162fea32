"""A stored file in memory, and small files of formats, written byte by byte as their definitions say."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rankme_stream.errors import CorruptChunkError

TORCH_FILES = Path(__file__).parent / "data" / "formats"
ROWS = ((np.arange(35) * 3 % 16 - 8) / 2).reshape(7, 5).astype("<f4")  # which 8-bit floats hold too


class BytesFile:
    """Bytes of a file, as a `StoredFile`."""

    is_remote = False

    def __init__(self, content: bytes, name: str = "dump") -> None:
        self.content, self.uri, self.address = content, name, name
        self.n_bytes = len(content)

    @contextmanager
    def opened(self) -> Iterator[BytesFile]:
        yield self

    def stamp(self) -> str:
        return str(len(self.content))

    def read_memory(self, n_bytes: int) -> int:
        return 0

    def read(self, offset: int, n_bytes: int) -> bytes:
        assert offset >= 0 and n_bytes >= 0
        return self.content[offset : offset + n_bytes]

    def read_into(self, out: np.ndarray[Any, Any], offset: int, place: str) -> None:
        target = out.reshape(-1).view(np.uint8)
        held = self.read(offset, len(target))
        if len(held) < len(target):
            raise CorruptChunkError(f"{self.uri} ends within {place}")
        target[:] = np.frombuffer(held, np.uint8)


def npz_bytes(*, compressed: bool = False, **arrays: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **(arrays or {"emb": ROWS}))
    return stream.getvalue()


def safetensors_bytes(*, metadata: dict[str, str] | None = None, **tensors: tuple[str, np.ndarray[Any, Any]]) -> bytes:
    """Return a file of tensors, each by the name of its type and its numbers."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (kind, numbers) in (tensors or {"emb": ("F32", ROWS)}).items():
        stop = len(data) + numbers.nbytes
        header[name] = {"dtype": kind, "shape": list(numbers.shape), "data_offsets": [len(data), stop]}
        data += numbers.tobytes()
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def faiss_bytes(kind: bytes = b"IxF2", metric: int = 1, rows: np.ndarray[Any, Any] = ROWS) -> bytes:
    return faiss_header(kind, metric, rows.shape) + struct.pack("<Q", rows.size) + rows.tobytes()


def faiss_header(kind: bytes, metric: int, shape: tuple[int, ...]) -> bytes:
    header = struct.pack("<4siqqqBi", kind, shape[1], shape[0], 1 << 20, 1 << 20, 1, metric)
    return header + (struct.pack("<f", 3.0) if metric > 1 else b"")


def mapped_faiss_bytes() -> bytes:
    """Return a flat index behind a map of ids."""
    ids = np.arange(len(ROWS), dtype="<i8")
    return faiss_header(b"IxMp", 0, ROWS.shape) + faiss_bytes(b"IxFI", 0) + struct.pack("<Q", len(ids)) + ids.tobytes()


def bin_bytes(rows: np.ndarray[Any, Any] = ROWS) -> bytes:
    return struct.pack("<2I", *rows.shape) + rows.tobytes()


def vecs_bytes(rows: np.ndarray[Any, Any] = ROWS) -> bytes:
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows)
