"""Groups packed into a few arrays, as state files and workers exchange them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.groups.group import ClosedGroup, OpenGroup
from rankme_stream.numerics.dtypes import Array, FloatArray
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
