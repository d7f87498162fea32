"""Writes the small files of ``torch.save`` beside it, which tests read without torch.

Needs torch (2.13 wrote them): ``python -m tests.data.formats.make_torch``.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from tests.bytes_file import ROWS, TORCH_FILES


class Evil:
    """Object whose pickle calls a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.getenv, ("HOME",)


def main() -> None:
    """Write the files."""
    rows = torch.from_numpy(ROWS)
    wide = torch.cat([rows, rows, rows], dim=1)
    with_attribute = rows.clone()
    with_attribute.origin = "a test"
    tensors = {
        "emb": rows,
        "transposed": rows.T.contiguous().T,
        "slice": wide[:, 5:10],
        "some": wide[2:5, 10:15],
        "stepped": wide[:, ::3],
        "expanded": rows[:1].expand(7, 5),
        "half": rows.half(),
        "bfloat16": rows.bfloat16(),
        "e4m3": rows.to(torch.float8_e4m3fn),
        "e5m2": rows.to(torch.float8_e5m2),
        "uint16": (rows.abs() * 2).to(torch.uint16),
        "parameter": torch.nn.Parameter(rows.clone()),
        "attribute": with_attribute,
        "negated": torch._neg_view(rows),
        "quantized": torch.quantize_per_tensor(rows, 0.5, 0, torch.qint8),
        "bool": rows > 0,
        "complex": rows.to(torch.complex64),
        "vector": rows[0].clone(),
        "inner": {"list": [torch.ones(3), rows * 2], 7: rows * 4, "text": ["a", "b"]},
        "numpy": np.ones((2, 2)),
    }
    torch.save(tensors, TORCH_FILES / "tensors.pt")
    torch.save(rows, TORCH_FILES / "tensor.pt")
    torch.save(rows, TORCH_FILES / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"emb": rows, "other": Evil()}, TORCH_FILES / "evil.pt")
    torch.jit.script(torch.nn.Linear(5, 7)).save(str(TORCH_FILES / "script.pt"))
    codes = torch.ones(7, 5, dtype=torch.int8)
    torch.save({"codes": codes, "codes_scale": torch.arange(7) / 2}, TORCH_FILES / "scaled.pt")


if __name__ == "__main__":
    main()
