"""Chunk grids: which rows and features lie under which key, and in which order rows are numbered."""
