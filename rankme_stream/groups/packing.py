"""Groups packed into a few arrays, as state files and workers exchange them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.errors import StateError
from rankme_stream.groups.group import ClosedGroup, OpenGroup
from rankme_stream.numerics.dtypes import Array, FloatArray
from rankme_stream.numerics.scaling import EXPONENTS
from rankme_stream.spectra.spectrum import ConsistentSet, SingularValues, Spectrum

# Arrays of a Gram accumulator, and the arrays that hold those of all open groups.
_GRAM_ARRAYS = (("chain", "chains"), ("gram", "grams"), ("nonzero", "nonzero"))
_GROUNDS = "certified: worst case of the sums, margin of the eigensolver"  # without its numbers, which are not stored


def pack_open(groups: Sequence[OpenGroup], n_features: int) -> dict[str, Array]:
    """Return open groups as arrays; ``unpack_open`` gives the same bits back."""
    pieces = [piece for group in groups for piece in group.pieces]
    grams = [group.gram.to_arrays() for group in groups if group.gram is not None]
    kept = [-1 if group.gram is not None else group.n_rows for group in groups]
    exponents = [int(one.get("exponent", 0)) for one in grams]  # all zero but for tiny rows, and then not stored
    packed = (n_features + 1) * (n_features + 2) // 2
    return {
        "counts": np.array([(one.batch, one.n_expected, one.n_seen) for one in groups], np.int64).reshape(-1, 3),
        "kept": np.array(kept, np.int64),
        "rows": np.concatenate(pieces) if pieces else np.empty((0, n_features), np.float32),
        "chains": np.array([one["chain"] for one in grams], np.int64),
        "grams": np.array([one["gram"] for one in grams]).reshape(-1, packed),
        "nonzero": np.array([one["nonzero"] for one in grams], bool).reshape(-1, n_features),
    } | ({"exponents": np.array(exponents, np.int64)} if any(exponents) else {})


def unpack_open(arrays: dict[str, Array]) -> list[OpenGroup]:
    """Return the groups that ``pack_open`` packed."""
    groups, start, n_grams = [], 0, 0
    n_features = arrays["nonzero"].shape[1]
    for (batch, n_expected, n_seen), n_kept in zip(arrays["counts"].tolist(), arrays["kept"].tolist(), strict=True):
        if n_kept < 0:
            of_gram = {name: arrays[key][n_grams] for name, key in _GRAM_ARRAYS}
            of_gram |= {"n_features": np.array(n_features), "rows_error": np.array(0.0)}
            if "exponents" in arrays:
                of_gram["exponent"] = arrays["exponents"][n_grams]
            groups.append(OpenGroup(batch, n_expected, n_seen, (), GramAccumulator.from_arrays(of_gram)))
            n_grams += 1
            continue
        piece = arrays["rows"][start : start + n_kept].copy()  # a slice would keep all rows alive
        groups.append(OpenGroup(batch, n_expected, n_seen, (piece,) if n_kept else ()))
        start += n_kept
    return groups


def check_packed(described: Mapping[str, Any], arrays: Mapping[str, Array], n_features: int) -> None:
    """Refuse arrays that ``GroupedRows.to_record`` does not make of the groups described.

    Raises
    ------
    StateError
        If an array is absent, or of another type or shape.
    """
    packed = (n_features + 1) * (n_features + 2) // 2
    n_open, n_closed = len(described["open"]), len(described["closed"])
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "open/counts": ("i", (n_open, 3)), "open/kept": ("i", (n_open,)), "closed/counts": ("i", (n_closed, 2)),
        "closed/means": ("f", (n_closed, n_features)), "closed/mean_errors": ("f", (n_closed,)),
    }  # fmt: skip
    _check_arrays(wanted, arrays)
    kept, counts, closed = arrays["open/kept"], arrays["open/counts"], arrays["closed/counts"]
    n_grams, n_spectra = int((kept < 0).sum()), int((closed[:, 1] > 0).sum())
    n_values = int(np.minimum(closed[:, 1], n_features).sum())
    wanted = {
        "open/rows": ("fu", (int(kept[kept > 0].sum()), n_features)), "open/chains": ("i", (n_grams,)),
        "open/grams": ("f", (n_grams, packed)), "open/nonzero": ("b", (n_grams, n_features)),
        "closed/row_sums": ("f", (n_spectra, 2)), "closed/unit_roundoffs": ("f", (n_spectra,)),
        "closed/raw": ("f", (3, n_values)), "closed/centered": ("f", (3, n_values)),
    }  # fmt: skip
    for batch in described["scatters"]:
        of_scatter = {
            "counts": ("i", (3,)),
            "given_error": ("f", ()),
            "sums": ("f", (n_features * (n_features + 1) // 2,)),
        }
        wanted |= {f"scatter {batch}/{name}": kind for name, kind in of_scatter.items()}
    if "open/exponents" in arrays:
        wanted["open/exponents"] = ("i", (n_grams,))
    _check_arrays(wanted, arrays)
    if not np.isin(arrays.get("open/exponents", np.zeros(0)), EXPONENTS).all():
        raise StateError("its groups hold exponents that cannot be so")
    if (counts < 0).any() or (closed < 0).any() or (kept < -1).any() or (counts[:, 2] > counts[:, 1]).any():
        raise StateError("its groups hold counts that cannot be so")


def _check_arrays(wanted: Mapping[str, tuple[str, tuple[int, ...]]], arrays: Mapping[str, Array]) -> None:
    for name, (kinds, shape) in wanted.items():
        array = arrays.get(name)
        is_right = array is not None and array.dtype.kind in kinds and array.shape == shape
        if not is_right or (kinds in "if" and arrays[name].dtype.itemsize != 8):
            raise StateError(f"the array {name} of its groups is absent, or of another type or shape")


def pack_closed(groups: Sequence[ClosedGroup], n_features: int) -> dict[str, Array]:
    """Return closed groups as arrays; ``unpack_closed`` gives the same bits back."""
    spectra = [group.spectrum for group in groups if group.spectrum is not None]
    sides = {"raw": [one.raw for one in spectra], "centered": [one.centered for one in spectra]}
    return {
        "counts": np.array([(one.batch, one.n_rows) for one in groups], np.int64).reshape(-1, 2),
        "means": np.array([one.mean for one in groups]).reshape(-1, n_features),
        "mean_errors": np.array([one.mean_error for one in groups]),
        "row_sums": np.array([one.row_sum for one in spectra]).reshape(-1, 2),
        "unit_roundoffs": np.array([one.unit_roundoff for one in spectra]),
    } | {
        side: np.concatenate(
            [np.stack([one.values, one.consistent.lower, one.consistent.upper]) for one in values]
            or [np.empty((3, 0))],
            axis=1,
        )
        for side, values in sides.items()
    }  # fmt: skip


def unpack_closed(arrays: dict[str, Array]) -> list[ClosedGroup]:
    """Return the groups that ``pack_closed`` packed."""
    groups: list[ClosedGroup] = []
    n_features, start, n_spectra = arrays["means"].shape[1], 0, 0
    for number, (batch, n_rows) in enumerate(arrays["counts"].tolist()):
        spectrum = None
        if n_rows:
            stop = start + min(n_rows, n_features)
            raw, centered = (arrays[side][:, start:stop].copy() for side in ("raw", "centered"))
            low, high = arrays["row_sums"][n_spectra].tolist()
            spectrum = Spectrum(
                raw=_singular_values(raw),
                centered=_singular_values(centered),
                n_rows=n_rows,
                n_features=n_features,
                unit_roundoff=float(arrays["unit_roundoffs"][n_spectra]),
                row_sum=(low, high),
                evidence="certified",
                confidence=1.0,
                grounds=_GROUNDS,
            )
            start, n_spectra = stop, n_spectra + 1
        mean, error = arrays["means"][number].copy(), float(arrays["mean_errors"][number])
        groups.append(ClosedGroup(batch, n_rows, mean, error, spectrum))
    return groups


def _singular_values(packed: FloatArray) -> SingularValues:
    return SingularValues(packed[0], ConsistentSet(packed[1], packed[2]))
