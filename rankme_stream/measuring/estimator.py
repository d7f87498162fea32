"""The scikit-learn face: an estimator that learns the spectrum of the rows it is fitted on."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from rankme_stream.accumulators.accumulator import Accumulator, check_device
from rankme_stream.accumulators.gram import GramAccumulator
from rankme_stream.accumulators.method import Arithmetic, Size
from rankme_stream.accumulators.tsqr import TsqrAccumulator
from rankme_stream.errors import MagnitudeError, UsageError
from rankme_stream.numerics.devices.device import Device, Workspace
from rankme_stream.numerics.devices.host import HOST
from rankme_stream.numerics.devices.registry import adopted, is_array, on_host
from rankme_stream.numerics.dtypes import FloatArray, stored_type
from rankme_stream.passes.loop.panels import PanelWriter
from rankme_stream.passes.planning.grid import grid_for
from rankme_stream.sources import ArraySource
from rankme_stream.spectra.estimates import Estimate, estimate_all
from rankme_stream.spectra.spectrum import Spectrum

_METHODS: dict[str, Any] = {"gram": GramAccumulator, "tsqr": TsqrAccumulator}


class RankMe(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """RankMe of rows in memory, batch by batch.

    Parameters
    ----------
    method
        ``gram``, or ``tsqr``, which never squares.

    Attributes
    ----------
    rankme_
        RankMe of the rows seen: uncentred, epsilon 1e-7; nan where it cannot be stated.
    interval_
        Ends of the interval that holds it, for the error of the arithmetic.
    singular_values_
        Shape ``(min(n_samples_seen_, n_features_in_),)``, descending, unit of the rows.
    estimates_
        Every metric by name, as in a ``Measurement``.
    n_features_in_, n_samples_seen_
        Width and number of the rows.

    Notes
    -----
    N D^2 flops (``tsqr`` twice that), 8 D^2 bytes; the attributes are solved for after every call, 10 D^3 flops. Rows
    are taken in float64, and non-finite ones are refused, as scikit-learn does. Rows of a card (CuPy, torch) are
    computed with there, and what is fitted stays there. For stores that do not fit in memory use
    ``rankme_stream.measure``.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).standard_normal((1000, 8))
    >>> 7.5 < RankMe().fit(rows).rankme_ < 8.01
    True
    """

    def __init__(self, method: Literal["gram", "tsqr"] = "gram") -> None:
        self.method = method

    def fit(self, X: Any, y: None = None) -> Self:
        """Learn from rows, shape ``(n, D)``, forgetting those seen before."""
        self.__dict__.pop("_accumulator", None)
        return self.partial_fit(X)

    def partial_fit(self, X: Any, y: None = None) -> Self:
        """Learn from more rows, shape ``(n, D)``."""
        is_first = not hasattr(self, "_accumulator")
        rows = self._validated(X, reset=is_first)
        if is_first:
            self._accumulator: Accumulator = self._empty(rows.device)
            self._roundoff = 0.0
        check_device(self._accumulator.device, rows.device)
        grown = self._accumulator.merge(self._empty(rows.device))  # the same; rows that are refused leave no trace
        self._absorb(grown, rows)
        self._accumulator = grown
        # every row was rounded to its own type; the coarsest decides what is zero
        self._roundoff = max(self._roundoff, _unit_roundoff(X, rows))
        return self._solved()

    def merge(self, other: RankMe) -> RankMe:
        """Return the estimator of both sets of rows; neither changes."""
        check_is_fitted(self, "rankme_")
        check_is_fitted(other, "rankme_")
        if self.method != other.method or self.n_features_in_ != other.n_features_in_:
            raise UsageError(
                f"{self.method} of width {self.n_features_in_} cannot join {other.method} of width "
                f"{other.n_features_in_}: fit both alike"
            )
        made = type(self)(**self.get_params())
        made.n_features_in_ = self.n_features_in_
        made._accumulator = self._accumulator.merge(other._accumulator)
        made._roundoff = max(self._roundoff, other._roundoff)
        return made._solved()

    def score(self, X: Any, y: None = None) -> float:
        """Return RankMe of other rows, shape ``(n, D)``; a fitted estimator is needed, whose width they have."""
        check_is_fitted(self, "rankme_")
        rows = self._validated(X, reset=False)
        accumulator = self._empty(rows.device)
        self._absorb(accumulator, rows)
        return _value(estimate_all(accumulator.spectrum(unit_roundoff=_unit_roundoff(X, rows)))["rankme"])

    def _validated(self, X: Any, *, reset: bool) -> ArraySource:
        """Return rows on the host as scikit-learn wants them, in float64, or those on a card as they are."""
        if is_array(X) and adopted(X, "X").device is not HOST:
            rows = ArraySource(X, "X")
            if reset:
                self.n_features_in_ = rows.shape[1]
            elif rows.shape[1] != self.n_features_in_:
                raise UsageError(f"X has {rows.shape[1]} features, and {self.n_features_in_} were fitted")
            return rows
        values = on_host(X) if is_array(X) and not isinstance(X, np.ndarray) else X
        checked: FloatArray = validate_data(self, values, dtype=np.float64, order="C", reset=reset)
        if getattr(getattr(values, "dtype", None), "kind", "") in "iu" and np.abs(checked).max() > 2.0**53:
            raise MagnitudeError("X holds integers beyond 2^53, which float64 cannot hold exactly")
        return ArraySource(checked, "X")

    def _empty(self, device: Device) -> Accumulator:
        if self.method not in _METHODS:
            raise UsageError(f"method {self.method!r} is not one of {', '.join(_METHODS)}")
        made: Accumulator = _METHODS[self.method](self.n_features_in_, Workspace(device))
        return made

    def _absorb(self, accumulator: Accumulator, rows: ArraySource) -> None:
        n_rows, n_features = rows.shape
        workspace = Workspace(rows.device)
        writer = PanelWriter(rows, workspace)
        for start, stop in grid_for(Arithmetic(self.method, "float64"), Size(n_features)).panels(0, n_rows):
            panel = workspace.array("panel", (stop - start, 1 + n_features))
            writer.write(start, rows.read(start, stop), panel)
            accumulator.update(panel, start)

    def _solved(self) -> Self:
        spectrum: Spectrum = self._accumulator.spectrum(unit_roundoff=self._roundoff)
        self.estimates_ = estimate_all(spectrum)
        rankme = self.estimates_["rankme"]
        self.rankme_ = _value(rankme)
        self.interval_ = (rankme.lower, rankme.upper)
        self.singular_values_ = spectrum.singular_values
        self.n_samples_seen_ = self._accumulator.n_rows
        return self


def _value(estimate: Estimate) -> float:
    return float("nan") if estimate.value is None else float(estimate.value)


def _unit_roundoff(X: Any, rows: ArraySource) -> float:
    """Relative error with which the rows were stored, as far as their type tells."""
    if rows.device is not HOST or (is_array(X) and not isinstance(X, np.ndarray)):
        return ArraySource(X, "X").stored.unit_roundoff
    dtype = getattr(X, "dtype", None)
    if isinstance(dtype, np.dtype) and (dtype.kind in "fiu" or dtype.name == "bfloat16") and dtype.itemsize <= 8:
        return stored_type(dtype, uri="X").unit_roundoff
    return 2.0**-53
