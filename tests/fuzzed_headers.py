"""Files of formats that we parse ourselves, for fuzzing: sound ones to begin with, and what may become of any bytes."""

from __future__ import annotations

import numpy as np

from rankme_stream.errors import RankMeError
from rankme_stream.sources.array_options import NO_OPTIONS, ArrayOptions
from rankme_stream.sources.formats import format_of
from tests.bytes_file import (
    ROWS,
    TORCH_FILES,
    BytesFile,
    bin_bytes,
    faiss_bytes,
    mapped_faiss_bytes,
    npz_bytes,
    safetensors_bytes,
    vecs_bytes,
)

SOUND: tuple[tuple[str, bytes], ...] = (
    (".npz", npz_bytes(emb=ROWS, labels=np.arange(7))),
    (".npz", npz_bytes(compressed=True, emb=ROWS)),
    (".safetensors", safetensors_bytes(emb=("F32", ROWS), ids=("I64", np.arange(7)))),
    (".safetensors.index.json", b'{"weight_map": {"emb": "model-1.safetensors"}}'),
    (".pt", (TORCH_FILES / "tensor.pt").read_bytes()),
    (".pt", (TORCH_FILES / "scaled.pt").read_bytes()),
    (".faiss", faiss_bytes()),
    (".faiss", mapped_faiss_bytes()),
    (".fbin", bin_bytes()),
    (".fvecs", vecs_bytes()),
    (".raw", ROWS.tobytes()),
)
ENDINGS = tuple(dict.fromkeys(ending for ending, _ in SOUND))
_RAW = ArrayOptions(dtype="float32", width=5)
_LONGEST_MESSAGE = 5_000
_MOST_VALUES = 10**6  # of a sound file that fuzzing makes larger


def read_any(ending: str, content: bytes) -> bool:
    """Read the first and last rows of a file of any bytes; return whether it has rows, or was refused in one line."""
    opener = format_of(f"dump{ending}")
    assert opener is not None
    try:
        source = opener.open(BytesFile(content, f"dump{ending}"), "", _RAW if ending == ".raw" else NO_OPTIONS)
        n_rows, n_features = source.shape
        assert n_rows > 0 and n_features > 0
        n_read = max(1, min(n_rows, _MOST_VALUES // n_features))
        for start in (0, n_rows - n_read):
            if n_features <= _MOST_VALUES:
                assert source.read(start, start + n_read).shape == (n_read, n_features)
    except RankMeError as error:
        said = str(error)
    else:
        return True
    assert said.isprintable() and len(said) < _LONGEST_MESSAGE, said
    return False
