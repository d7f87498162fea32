"""Rows in memory: arrays of this machine or a card, streams of blocks, rows gathered from another source."""
