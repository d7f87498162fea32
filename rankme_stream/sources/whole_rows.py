"""What sources have in common whose rows are stored, or held, as one unit."""

from __future__ import annotations

from rankme_stream.numerics.dtypes import StoredType
from rankme_stream.sources.value_types import identity_of


class WholeRows:
    """Rows of one file or object: nothing of it is missing by itself, and all of it is written again at once."""

    shape: tuple[int, int]
    stored: StoredType
    integrity: str = "none"
    chunks_missing: int = 0
    first_missing: str | None = None

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the row ranges known to be unwritten: none."""
        return []

    @property
    def tail_start(self) -> int:
        """First row that is written again when rows are added: row 0, because the rows are one unit."""
        return 0

    def identity(self) -> dict[str, object]:
        """Return the properties that all parts of a data set share."""
        properties = {"dtype": self.stored.name, "n_features": self.shape[1], "codecs": None}
        return properties | identity_of(self.stored)
