"""Every method by name, and every arithmetic that a pass may use."""

from __future__ import annotations

from rankme_stream.accumulators.frequent_directions import FrequentDirectionsMethod
from rankme_stream.accumulators.gram_method import GramMethod
from rankme_stream.accumulators.method import Arithmetic, Method, MethodName
from rankme_stream.accumulators.nystrom.accumulator import NystromMethod
from rankme_stream.accumulators.row_gram import RowGramMethod
from rankme_stream.accumulators.row_qr import RowQrMethod
from rankme_stream.accumulators.row_sketch.accumulator import RowSketchMethod
from rankme_stream.accumulators.tsqr import TsqrMethod

METHODS: dict[MethodName, Method] = {  # exact ones first, of features and of rows, cheapest first
    method.name: method
    for method in (
        GramMethod(), TsqrMethod(), RowGramMethod(), RowQrMethod(),
        NystromMethod(), FrequentDirectionsMethod(), RowSketchMethod(),
    )
}  # fmt: skip
OFFERED = tuple(name for name, method in METHODS.items() if method.is_offered)
ARITHMETICS = tuple(Arithmetic(name, precision) for name, method in METHODS.items() for precision in method.precisions)
