"""Estimator with the interface of scikit-learn, fitted to the spectrum of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from rankme_stream.accumulators.accumulator import Accumulator, check_device
from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.methods import METHODS
from rankme_stream.errors import MagnitudeError, UsageError
from rankme_stream.measuring.sampling.look_estimator import widened
from rankme_stream.measuring.sampling.rows_in_memory import RowsInMemory
from rankme_stream.numerics import blas_threads, machine
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.known_products import check_products
from rankme_stream.numerics.devices.registry import adopted, is_array, on_host
from rankme_stream.numerics.dtypes import FloatArray, stored_type
from rankme_stream.numerics.rounding import U
from rankme_stream.passes.engines import local
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.loop.segment import PassSpec
from rankme_stream.passes.planning.grid import grid_for
from rankme_stream.passes.planning.plan import make_plan
from rankme_stream.passes.planning.workload import CardLimits, RowLayout, Workload
from rankme_stream.passes.state.merge_tree import MergeTree
from rankme_stream.passes.state.partial_result import PartialResult, accumulator_of
from rankme_stream.sources import ArraySource, Source, is_object_of_rows, open_source, read_values
from rankme_stream.spectra.estimates import METRICS, Estimate, estimate_all
from rankme_stream.spectra.spectrum import Spectrum

_CONFIDENCE = 0.95
_METHODS = {name: method for name, method in METHODS.items() if method.is_offered and not method.is_sketch}

_Seen = Accumulator | RowsInMemory


class RankMe(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """RankMe of rows in memory, batch by batch: arrays and frames, and what else ``rs.open_source`` takes of libraries.

    Parameters
    ----------
    method
        ``gram``, or ``tsqr``, which never squares.
    population
        Whether to estimate the population that the rows were drawn from, independently of one another, in place of
        these rows: RankMe of few rows is too low.

    Attributes
    ----------
    rankme_
        RankMe of the rows seen, or of their population: uncentred, epsilon 1e-7; nan if it cannot be stated, and
        ``estimates_`` has the reason.
    interval_
        Ends of an interval that holds RankMe: for the error of the arithmetic, and at 95 % for the choice of the rows
        if it is of their population.
    singular_values_
        Shape ``(min(n_samples_seen_, n_features_in_),)``, descending, unit of the rows.
    estimates_
        Every metric by name, as in a ``Measurement``.
    n_features_in_, n_samples_seen_
        Width and number of the rows.

    Notes
    -----
    N D^2 flops (``tsqr`` twice that), 8 D^2 bytes; every call computes the attributes anew, 10 D^3 flops. Rows are
    converted to float64, and non-finite ones are refused, as in scikit-learn. Rows on a card (CuPy, torch) and the
    fitted state stay there. With ``population``, rows are copied to the host, where up to 4 D of them are kept; 500 D^2
    bytes, and up to 200 D^3 flops a call. For stores that do not fit in memory use ``rankme_stream.measure``.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((1000, 8))
    >>> 7.5 < RankMe().fit(rows).rankme_ < 8.01
    True
    """

    def __init__(self, method: Literal["gram", "tsqr"] = "gram", *, population: bool = False) -> None:
        self.method, self.population = method, population

    def fit(self, X: Any, y: None = None) -> Self:
        """Fit to rows, shape ``(n, D)``, and forget those seen before."""
        with self._unchanged_if_refused():
            if hasattr(self, "_seen"):
                del self._seen
            return self.partial_fit(X)

    def partial_fit(self, X: Any, y: None = None) -> Self:
        """Add more rows, shape ``(n, D)``, to the fit."""
        is_first = not hasattr(self, "_seen")
        with self._unchanged_if_refused():
            X = _opened(X)
            rows = self._validated(X, reset=is_first)
            if is_first:
                with blas_threads.threads(1, "rankme-check") as pool:
                    check_products(rows.device, pool)
                self._seen: _Seen = self._nothing(rows.device)
                self._roundoff = 0.0
            self._seen = self._with_rows(self._seen, rows)
            # each batch was rounded to its own type; the coarsest type decides which singular values count as zero
            self._roundoff = max(self._roundoff, _unit_roundoff(X, rows))
            return self._solved()

    @contextmanager
    def _unchanged_if_refused(self) -> Iterator[None]:
        """Take back what was set inside if anything is raised there."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def merge(self, other: RankMe) -> RankMe:
        """Return the estimator of both sets of rows; neither changes."""
        check_is_fitted(self, "rankme_")
        check_is_fitted(other, "rankme_")
        mine, theirs = self._seen, other._seen
        if self.method != other.method or self.n_features_in_ != other.n_features_in_ or type(mine) is not type(theirs):
            raise UsageError(
                f"{self.method} of width {self.n_features_in_} cannot join {other.method} of width "
                f"{other.n_features_in_}: fit both with one method, to rows of one width, with population or without"
            )
        merged = type(self)(**self.get_params())
        merged.n_features_in_ = self.n_features_in_
        merged._seen = cast(Any, mine).merge(theirs)
        merged._roundoff = max(self._roundoff, other._roundoff)
        return merged._solved()

    def score(self, X: Any, y: None = None) -> float:
        """Return RankMe of other rows, shape ``(n, D)``; the estimator must be fitted to rows of the same width."""
        check_is_fitted(self, "rankme_")
        X = _opened(X)
        rows = self._validated(X, reset=False)
        found = self._with_rows(self._nothing(rows.device), rows)
        return _value(_estimates(found, _unit_roundoff(X, rows))[1]["rankme"])

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator: sparse rows are taken, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _validated(self, X: Any, *, reset: bool) -> ArraySource:
        """Return rows on the host in float64, checked by scikit-learn, or rows on a card as they are."""
        if not self.population and is_array(X) and adopted(X, "X").device is not HOST:
            rows = ArraySource(X, "X")
            if reset:
                self.n_features_in_ = rows.shape[1]
            elif rows.shape[1] != self.n_features_in_:
                raise UsageError(
                    f"X has {rows.shape[1]} features, and the estimator was fitted to {self.n_features_in_}"
                )
            return rows
        if isinstance(X, Source):
            values: Any = read_values(X, 0, X.shape[0])
        else:
            values = on_host(X) if is_array(X) and not isinstance(X, np.ndarray) else X
        checked: FloatArray = validate_data(self, values, dtype=np.float64, order="C", reset=reset)
        if getattr(getattr(values, "dtype", None), "kind", "") in "iu" and np.abs(checked).max() > 2.0**53:
            raise MagnitudeError("X holds integers beyond 2^53, which float64 cannot hold exactly: convert them")
        return ArraySource(checked, "X")

    def _empty(self, device: Device) -> Accumulator:
        if self.method not in _METHODS:
            raise UsageError(f"method {self.method!r} is not one of {', '.join(_METHODS)}")
        return _METHODS[self.method].accumulator("float64")(self.n_features_in_, Workspace(device))

    def _nothing(self, device: Device) -> _Seen:
        """Return what was seen before the first row."""
        return RowsInMemory.none(self.n_features_in_) if self.population else self._empty(device)

    def _with_rows(self, seen: _Seen, rows: ArraySource) -> _Seen:
        """Return what was seen and more rows; nothing changes even if they are refused."""
        if isinstance(seen, RowsInMemory):
            with blas_threads.one_thread():
                return seen.with_rows(rows.read(0, rows.shape[0]), lambda: self._empty(HOST))
        check_device(seen.device, rows.device)
        return self._accumulated(seen, rows)

    def _accumulated(self, accumulator: Accumulator, rows: ArraySource) -> Accumulator:
        """Return an accumulator with rows added to those of another."""
        arithmetic, size = Arithmetic(self.method, "float64"), Size(rows.shape[1])
        if rows.device is not HOST:
            return self._with_rows_on_card(accumulator, rows, Workload(arithmetic, size))
        added: Accumulator = accumulator.merge(self._empty(HOST))
        workspace = Workspace()
        writer = PanelWriter(rows, workspace)
        for start, stop in grid_for(arithmetic, size).panels(0, rows.shape[0]):
            panel = workspace.array("panel", (stop - start, 1 + rows.shape[1]))
            writer.write(start, rows.read(start, stop), panel)
            added.update(panel, start)
        return added

    def _with_rows_on_card(self, accumulator: Accumulator, rows: ArraySource, workload: Workload) -> Accumulator:
        layout = RowLayout((0, rows.shape[0]), rows.stored.dtype.itemsize, rows.bounds(0, rows.shape[0]), lambda _: 0)
        card = CardLimits(rows.device.free_bytes(), has_host=False, itemsize=0)
        plan = make_plan(workload, layout, machine.limits(1, None), card)
        tree = MergeTree[PartialResult]()
        local.run_into(tree, PassSpec(rows, plan, accumulator_of(plan), device=rows.device))
        added: Accumulator = accumulator.merge(tree.total().accumulators["raw"])
        return added

    def _solved(self) -> Self:
        spectrum, self.estimates_ = _estimates(self._seen, self._roundoff)
        rankme = self.estimates_["rankme"]
        self.rankme_ = _value(rankme)
        self.interval_ = (rankme.lower, rankme.upper)
        self.singular_values_ = spectrum.singular_values
        self.n_samples_seen_ = self._seen.n_rows
        return self


def _estimates(seen: _Seen, unit_roundoff: float) -> tuple[Spectrum, dict[str, Estimate]]:
    """Return the spectrum of the rows seen, and every metric: of these rows or of their population."""
    if not isinstance(seen, RowsInMemory):
        spectrum: Spectrum = seen.spectrum(unit_roundoff=unit_roundoff)
        return spectrum, estimate_all(spectrum)
    with blas_threads.one_thread():
        estimator = seen.estimator(machine.cores(), unit_roundoff)
        spectrum = estimator.spectrum("raw")
        exact = estimate_all(spectrum)
        return spectrum, widened(estimator, METRICS, exact, lambda spread, one: spread.widen(one, 0.0, _CONFIDENCE))


def _opened(X: Any) -> Any:
    """Return rows that a library holds as a source; frames, which scikit-learn takes, and all else as they are."""
    return open_source(X) if is_object_of_rows(X) and type(X).__name__ != "DataFrame" else X


def _value(estimate: Estimate) -> float:
    return float("nan") if estimate.value is None else float(estimate.value)


def _unit_roundoff(X: Any, rows: ArraySource) -> float:
    """Return the unit roundoff of the type of the rows; that of float64 if the type is not known."""
    if isinstance(X, Source):
        return X.stored.unit_roundoff
    if rows.device is not HOST or (is_array(X) and not isinstance(X, np.ndarray)):
        return ArraySource(X, "X").stored.unit_roundoff
    dtype = getattr(X, "dtype", None)
    if isinstance(dtype, np.dtype) and (dtype.kind in "fiu" or dtype.name == "bfloat16") and dtype.itemsize <= 8:
        return stored_type(dtype, uri="X").unit_roundoff
    return U
