"""Inspection of a source: its metadata, a few of its rows, and what a full pass would take."""

from __future__ import annotations

import math
from typing import Any

from rankme_stream.errors import MagnitudeError, RankMeError, StorageError
from rankme_stream.measuring.inspecting.block_sample import BlockSample
from rankme_stream.measuring.inspecting.dump_parts import equal_parts
from rankme_stream.measuring.inspecting.full_pass import expected_time, plan_full_pass, remote_cost
from rankme_stream.measuring.inspecting.inspection_remarks import Found, inspection_remarks
from rankme_stream.measuring.inspecting.installed_readers import installed_readers
from rankme_stream.measuring.inspecting.number_forms import NumberForms
from rankme_stream.measuring.inspecting.row_statistics import RowStatistics
from rankme_stream.measuring.inspecting.score_commands import Circumstances, score_commands
from rankme_stream.measuring.request import Request
from rankme_stream.measuring.rows_needed import check_price
from rankme_stream.measuring.sampling.odd_chunks import OddChunks, find_odd_chunks
from rankme_stream.numerics import machine
from rankme_stream.numerics.devices.registry import memory_errors_as_limits
from rankme_stream.numerics.dtypes import Array
from rankme_stream.results.inspection import Inspection
from rankme_stream.sources import Source, describe_parts, describe_storage, is_remote, open_source, storage_of
from rankme_stream.sources.stored_sizes import stored_sizes

_MOST_KEYS, _MOST_REMOTE_KEYS = 2**17, 2**14  # whose presence is looked for
_ODD_BYTES = 16_000_000  # of chunks of unlike size, which are read beside the sample


def inspect(
    source: Any,
    *,
    memory_limit: int | None = None,
    workers: int | None = None,
    price_per_gb: float | None = None,
    price_per_1000_requests: float | None = None,
    **options: Any,
) -> Inspection:
    """Say what a source is, what is remarkable about it, and how to score it.

    Parameters
    ----------
    source
        A path or URL, a list of them, an array, or anything that satisfies ``Source``; as ``open_source`` takes them.
    memory_limit, workers
        As in ``plan``; nothing that the limit does not hold is read.
    price_per_gb, price_per_1000_requests
        Price of 10^9 bytes as they are stored, and of 1,000 requests, for a pass over rows on a server.
    options
        Options of ``open_source``.

    Returns
    -------
    Inspection
        Also of rows that ``measure`` would refuse; its remarks then say why.

    Raises
    ------
    SourceError, StorageError
        If the source cannot be opened.
    UsageError
        If an option has no such value.

    Notes
    -----
    Reads 64 MB or for two seconds, whichever ends first, but one block at least, beside a look for missing chunks and,
    of several parts, three rows of each.

    Examples
    --------
    >>> import numpy as np
    >>> found = inspect(np.eye(300, 20))
    >>> [remark.kind for remark in found.remarks]
    ['zero_rows', 'few_values', 'unit_rows']
    """
    for name, price in (("price_per_gb", price_per_gb), ("price_per_1000_requests", price_per_1000_requests)):
        check_price(name, price)
    Request(memory_limit=memory_limit, workers=workers).check()
    opened = open_source(source, **options)
    with memory_errors_as_limits():
        limits = machine.limits(workers, memory_limit)
        memory_left = limits.memory_limit_bytes - limits.base_bytes
        rows_checked, fault = _look_for_chunks(opened, memory_left)
        is_whole = rows_checked == opened.shape[0]
        storage = storage_of(opened)
        found, block = _look_at_rows(opened, memory_left, fault, is_whole=is_whole)
        planned = plan_full_pass(opened, memory_limit, workers)
        remarks = inspection_remarks(found)
        sample = found.sample
        rate = None if opened.reopen() is None else sample.rows_per_second
        row_bytes = opened.shape[1] * opened.stored.dtype.itemsize
        full_pass = None
        if planned.plan is not None and (rate is not None or opened.reopen() is None):
            full_pass = expected_time(opened, planned.plan, rate or math.inf, block)
    described = describe_storage(opened, storage)["storage"] | {"facts": dict(storage.facts)}
    parts = {name: value for name, value in describe_parts(opened).items() if name != "remarks"}  # among the others
    return Inspection(
        source={
            "uri": opened.uri, "n_rows": opened.shape[0], "n_features": opened.shape[1], "dtype": opened.stored.name,
            "decoding": opened.stored.description, "storage": described, **parts,
        },
        integrity={
            "checksum": opened.integrity, "chunks_missing": opened.chunks_missing,
            "first_missing": opened.first_missing, "rows_checked": rows_checked,
        },
        sample=_describe_sample(found) if sample.n_rows else None,
        reading=None if rate is None else {"bytes_per_second": rate * row_bytes, "rows_per_second": rate},
        remarks=remarks,
        readers=installed_readers(),
        plan=None if planned.plan is None else planned.plan.to_dict(),
        plan_refused=planned.refused,
        full_pass=full_pass,
        remote=remote_cost(opened, storage, planned.plan, price_per_gb, price_per_1000_requests),
        commands=list(score_commands(source, options, Circumstances(opened, planned, full_pass, remarks))),
    )  # fmt: skip


def _look_for_chunks(source: Source, memory_left: int) -> tuple[int, RankMeError | None]:
    """Look which chunks are there, of the first rows where there are very many; return their number, and an error."""
    if source.read_memory(1) > memory_left:
        return 0, None  # a store that gives no times has rows read for its fingerprint
    n_rows, n_keys = source.shape[0], storage_of(source).n_requests or 1
    most = _MOST_REMOTE_KEYS if is_remote(source) else _MOST_KEYS
    stop = n_rows if n_keys <= most else max(1, n_rows * most // n_keys)
    try:
        source.fingerprint(0, stop)
    except RankMeError as error:
        return 0, error
    return stop, None


def _look_at_rows(
    source: Source, memory_left: int, fault: RankMeError | None, *, is_whole: bool
) -> tuple[Found, Array | None]:
    """Read blocks of rows; return what was found, and a block for measuring the speed of conversion.

    Parameters
    ----------
    fault
        Error of the look for chunks; of a storage that failed after all attempts nothing more is asked.
    is_whole
        Whether all chunks were looked for.
    """
    sample = BlockSample(source, memory_left, RowStatistics.working_bytes(source.shape[1]))
    rows, forms, block = RowStatistics(source), NumberForms(source.stored), None
    if isinstance(fault, StorageError):
        return Found(source, sample, rows, forms, fault, None, ()), None
    for start, stored in sample.blocks():
        try:
            rows.add(start, stored)
        except MagnitudeError as error:
            sample.unreadable.append((start, start + len(stored), error))
            continue
        forms.add(stored)
        block = stored
    if sample.lacks_memory:
        return Found(source, sample, rows, forms, fault, None, ()), None
    odd = _odd_chunks(source, memory_left) if is_whole else None
    return Found(source, sample, rows, forms, fault, odd, equal_parts(source)), block


def _odd_chunks(source: Source, memory_left: int) -> OddChunks | None:
    """Return chunks of unlike stored size, if reading the longest fits in memory."""
    n_rows, n_features = source.shape
    arrays = stored_sizes(source, 0, n_rows)
    longest = max((int((sizes.edges[1:] - sizes.edges[:-1]).max()) for sizes in arrays), default=0)
    if not longest or source.read_memory(longest) + RowStatistics.working_bytes(n_features) > memory_left:
        return None
    row_bytes = n_features * source.stored.dtype.itemsize
    return find_odd_chunks(source, (0, n_rows), _ODD_BYTES // row_bytes)


def _describe_sample(found: Found) -> dict[str, Any]:
    sample, rows, forms = found.sample, found.rows, found.forms
    constant = list(rows.constant_features())
    row_bytes = found.source.shape[1] * found.source.stored.dtype.itemsize
    return {
        "rows": sample.n_rows, "blocks": sample.n_blocks, "bytes_decoded": sample.rows_decoded * row_bytes,
        "seconds": sample.seconds,
        **{
            f"rows_{name}": one.n_rows
            for name, one in (
                ("nonfinite", rows.nonfinite), ("zero", rows.zero), ("constant", rows.constant),
                ("missing", rows.missing),
            )
        },
        "rows_repeated": rows.repeated, "rows_compared": rows.n_compared,
        "lengths": rows.lengths(), "cosines": rows.cosines(), "largest_magnitude": rows.largest,
        "features_constant": len(constant), "features_zero": sum(value == 0.0 for _, value in constant),
        "narrower_type": forms.narrower, "distinct_values": forms.distinct,
    }  # fmt: skip
