"""The numbers of every group, worked out when they are asked for."""

from __future__ import annotations

_NO_ROW = "every row of the group was left out"
