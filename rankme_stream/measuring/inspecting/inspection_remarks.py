"""Remarks on what was found of a source: each with its evidence, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rankme_stream.errors import RankMeError, argument, counted
from rankme_stream.measuring.inspecting.block_sample import BlockSample
from rankme_stream.measuring.inspecting.number_forms import NumberForms, floats_in_integers, grid_of_rows
from rankme_stream.measuring.inspecting.row_statistics import Faulty, RowStatistics
from rankme_stream.measuring.sampling.odd_chunks import OddChunks
from rankme_stream.numerics.dtypes import LARGEST_MAGNITUDE
from rankme_stream.results.inspection import Remark
from rankme_stream.sources import ConcatSource, Source, absent_numbers

_UNIT = 2.0**-7  # that bfloat16 leaves of a length of 1
_LEAST_PAIRS = 32  # of neighbours, for a statement about them
_ALIKE = 0.05  # by which the cosine of neighbours exceeds that of other pairs
_ERRORS = 5.0  # standard errors of it
_UNEVEN = 100.0  # the longest row, over the median
_NAMED = 8


@dataclass(frozen=True)
class Found:
    """What was found of a source.

    Attributes
    ----------
    sample, rows, forms
        Blocks that were read, and what their rows and numbers are like.
    storage_fault
        Error of the look for chunks; None without one.
    odd_chunks
        Chunks of unlike stored size; None where sizes are not known.
    equal_parts
        Names of parts that are alike.
    """

    source: Source
    sample: BlockSample
    rows: RowStatistics
    forms: NumberForms
    storage_fault: RankMeError | None
    odd_chunks: OddChunks | None
    equal_parts: Sequence[tuple[str, str]]


def inspection_remarks(found: Found) -> list[Remark]:
    """Return the remarks, those first that ``score`` refuses."""
    remarks = [
        *_of_storage(found), *_of_faults(found.rows), *_of_shape(found.source), *_of_parts(found),
        *_of_numbers(found), *_of_lengths(found.rows), *_of_neighbours(found.rows), *_of_features(found),
    ]  # fmt: skip
    return sorted(remarks, key=lambda one: not one.refuses)


def _of_storage(found: Found) -> Iterator[Remark]:
    source, sample = found.source, found.sample
    if found.storage_fault is not None:
        yield Remark("storage", found.storage_fault.message, "Nothing can be scored before that is mended", True)
    if source.chunks_missing:
        yield Remark(
            "missing_chunks",
            f"{counted(source.chunks_missing, 'chunk')} never written, the first {source.first_missing}",
            f"Write them, or give {argument('missing', 'skip')} to leave their rows out, which the result counts",
            True,
            ("--missing", "skip"),
        )
    for start, stop, error in sample.unreadable[:1]:
        more = f", and so are {len(sample.unreadable) - 1} other blocks" if len(sample.unreadable) > 1 else ""
        yield Remark(
            "unreadable", f"rows {start:,} to {stop - 1:,} cannot be read{more}: {error.message}",
            f"Mend them, or leave them out by {argument('rows')}", True,
        )  # fmt: skip
    if sample.lacks_memory:
        yield Remark(
            "memory",
            f"no row was read: decoding the smallest block takes {sample.lacks_memory / 2**20:,.0f} MiB and "
            f"{max(0, sample.memory_left) / 2**20:,.0f} MiB are left",
            f"Raise {argument('memory_limit')}, or write the rows in smaller chunks", True,
        )  # fmt: skip
    if (odd := found.odd_chunks) is not None and odd.found:
        first = odd.read[0]
        yield Remark(
            "odd_chunks",
            f"{odd.found:,} of {odd.n_chunks:,} chunks are stored in a size unlike the others, most of all that of "
            f"rows {first.start:,} to {first.stop - 1:,} ({first.z:+.3g} robust standard deviations), which holds: "
            f"{first.holds}",
            "Look at these rows: zeros, padding and copies compress so",
        )


def _of_faults(rows: RowStatistics) -> Iterator[Remark]:
    def placed(faulty: Faulty) -> str:
        return f"{faulty.n_rows:,} of the {counted(rows.n_rows, 'row')} read, the first is row {faulty.first:,}"

    if rows.nonfinite.n_rows:
        yield Remark(
            "nonfinite_rows", f"NaN, infinity or no data in {placed(rows.nonfinite)}",
            f"Give {argument('nonfinite', 'skip')} to leave such rows out, which the result counts, or mend them", True,
            ("--nonfinite", "skip"),
        )  # fmt: skip
    if rows.largest > LARGEST_MAGNITUDE:
        yield Remark(
            "huge_values", f"the largest magnitude is {rows.largest:.3g}, whose square float64 does not hold",
            "Divide the rows by a power of two, which changes no effective rank", True,
        )  # fmt: skip
    if rows.zero.n_rows:
        yield Remark(
            "zero_rows", f"zero throughout: {placed(rows.zero)}",
            f"If they are padding, {argument('zeros', 'skip')} leaves them out: centred numbers see the gap to them",
            options=("--zeros", "skip"), when="without the rows of zeros",
        )  # fmt: skip
    if rows.constant.n_rows:
        yield Remark(
            "constant_rows", f"one number in all features: {placed(rows.constant)}",
            f"If it stands for missing data, {argument('nodata')} names it",
        )  # fmt: skip
    if rows.repeated:
        first, second = rows.pair
        yield Remark(
            "duplicates",
            f"{rows.repeated:,} of {rows.n_compared:,} rows equal one before, such as rows {first:,} and {second:,}",
            "Copies add nothing to the rank, and a sample of them says less than its number of rows",
        )


def _of_shape(source: Source) -> Iterator[Remark]:
    n_rows, n_features = source.shape
    if n_rows < n_features:
        yield Remark(
            "few_rows", f"{counted(n_rows, 'row')} and {n_features:,} features",
            f"If the features lie along axis 0, the array is transposed: give {argument('features_axis', 0)}. "
            f"Otherwise RankMe is at most {n_rows:,}, whatever the embeddings",
            options=("--features-axis", "0"), when="if the features lie along axis 0",
        )  # fmt: skip


def _of_parts(found: Found) -> Iterator[Remark]:
    source = found.source
    if not isinstance(source, ConcatSource):
        return
    if runs := absent_numbers([part.name for part in source.parts]):
        listed = ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in runs[:_NAMED])
        more = ", ..." if len(runs) > _NAMED else ""
        yield Remark(
            "absent_numbers", f"the names of the parts skip {listed}{more}", "Check whether these parts were written",
        )  # fmt: skip
    for text in source.remarks:  # on their lengths, on equal files, on files left out
        yield Remark("odd_parts", text.rstrip("."), "Check what wrote them")
    if found.equal_parts:
        first, second = found.equal_parts[0]
        yield Remark(
            "equal_parts",
            f"{counted(len(found.equal_parts), 'part')} as long as one before, with its first, middle and last rows, "
            f"such as {second} and {first}",
            "If a part was written twice, leave one out: its rows count twice",
        )


def _of_numbers(found: Found) -> Iterator[Remark]:
    stored, forms = found.source.stored, found.forms
    if stored.name in ("int8", "uint8", "int4", "uint4") and stored.decoding is None and not stored.note:
        yield Remark(
            "unscaled_codes", f"the rows are {stored.name}, and no scale is declared",
            f"One scale for all numbers changes no effective rank. If each row has its own, name them by "
            f"{argument('scales')}; if the codes have an offset or a rule, see {argument('decode')}",
        )  # fmt: skip
    if (name := floats_in_integers(found.rows.kept, stored)) is not None:
        yield Remark(
            "float_bits", f"the {stored.name} have the bits of numbers of {name} of both signs and usual magnitudes",
            f"If they are such bits, {argument('dtype', name)} reads them so: as integers their score means nothing",
            options=("--dtype", name), when=f"if they are bits of {name}",
        )  # fmt: skip
    if forms.distinct is not None:
        whole = ", all of them whole numbers" if forms.is_whole else ""
        yield Remark(
            "few_values", f"{forms.n_values:,} numbers of {stored.name} have {counted(forms.distinct, 'value')}{whole}",
            "They look quantised: RankMe is that of the rounded rows, and small singular values are those of rounding",
        )  # fmt: skip
    elif stored.is_float and stored.decoding is None and not stored.note and (grid := grid_of_rows(found.rows.kept)):
        yield Remark(
            "quantised_rows",
            f"the numbers of each of {grid['rows']:,} rows lie on an even grid of their own, of {grid['levels']:,} "
            "levels at most",
            "They look quantised with a scale a row, and decoded: small singular values are those of rounding",
        )
    elif forms.narrower is not None:
        size = {"bfloat16": 2, "float16": 2, "float32": 4}[forms.narrower]
        yield Remark(
            "narrower_type", f"all {forms.n_values:,} numbers of {stored.name} are numbers of {forms.narrower}",
            f"Stored as {forms.narrower} they would take {size} bytes instead of {stored.dtype.itemsize}, with the "
            "same score; small singular values may be those of rounding",
        )  # fmt: skip


def _of_lengths(rows: RowStatistics) -> Iterator[Remark]:
    lengths = rows.lengths()
    if lengths is None:
        return
    if lengths["min"] >= 1 - _UNIT and lengths["max"] <= 1 + _UNIT:
        yield Remark(
            "unit_rows", f"rows have unit length, from {lengths['min']:.6g} to {lengths['max']:.6g}",
            f"Compare them with other unit rows only; {argument('normalize')} would change nothing",
        )  # fmt: skip
    elif lengths["max"] > _UNEVEN * lengths["median"]:
        yield Remark(
            "uneven_lengths", f"the longest row is {lengths['max'] / lengths['median']:.3g} times the median length",
            f"Few rows then decide the spectrum: look at them, or give {argument('normalize')} for unit rows as well",
        )  # fmt: skip


def _of_neighbours(rows: RowStatistics) -> Iterator[Remark]:
    cosines = rows.cosines()
    if cosines is None or cosines["neighbours"]["pairs"] < _LEAST_PAIRS:
        return
    near: dict[str, Any] = cosines["neighbours"]
    excess = near["mean"] - cosines["mean"]
    if excess > max(_ALIKE, _ERRORS * cosines["spread"] / near["pairs"] ** 0.5):
        yield Remark(
            "alike_neighbours",
            f"the mean cosine of {near['pairs']:,} pairs of neighbours is {near['mean']:.3f}, and that of all pairs "
            f"{cosines['mean']:.3f}",
            "Rows stored together are alike (sorted, or of one image each): a sample needs more rows, and the first "
            "rows do not stand for all",
        )


def _of_features(found: Found) -> Iterator[Remark]:
    constant = list(found.rows.constant_features())
    zero = [feature for feature, value in constant if value == 0.0]
    n_features, n_rows = found.source.shape[1], found.rows.n_rows
    if zero and len(zero) < n_features:
        yield Remark(
            "zero_features", f"{len(zero):,} of {n_features:,} features are zero in all {n_rows:,} rows read, "
            f"the first is feature {zero[0]:,}",
            "They add nothing to the rank: dead, or padded to a width",
        )  # fmt: skip
    if other := [(feature, value) for feature, value in constant if value != 0.0]:
        feature, value = other[0]
        yield Remark(
            "constant_features", f"{len(other):,} of {n_features:,} features are constant in the rows read, the first "
            f"is feature {feature:,} with {value:.6g}",
            "Uncentred numbers count them as a direction: such as a bias, or an identifier written with the rows",
        )  # fmt: skip
    if counting := found.rows.counting_features():
        yield Remark(
            "counting_features", f"feature {counting[0]:,} grows by the same step from row to row",
            "It looks like a row number or an identifier that was written with the rows: leave its column out",
        )  # fmt: skip
