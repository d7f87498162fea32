"""Names with numbers in their natural order: ``a_2`` before ``a_10``."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d{1,4000})")  # Python reads 4,300 digits


def natural_key(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts names as people number them: ``a_2`` before ``a_10``."""
    pieces = _NUMBER.split(text)
    return tuple((piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces)
