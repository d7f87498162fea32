"""A sketch of fewer rows that are signed sums of the rows read."""
