"""Passes that are stopped on purpose after a number of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

import rankme_stream as rs


class Stop(BaseException):
    pass


def stop_after(n_rows: int):
    def check(done):
        if done.rows_done >= n_rows:
            raise Stop

    return check


def stopped(source: Path, file: Path, n_rows: int, **options: object) -> None:
    with pytest.raises(Stop):
        rs.measure(source, checkpoint=file, progress=stop_after(n_rows), **options)
