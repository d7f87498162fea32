"""Codecs: from the stored bytes of a chunk to its numbers, in memory of the size that metadata give."""
