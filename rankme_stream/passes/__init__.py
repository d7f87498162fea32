"""One pass over the rows: planned, run, merged and stored."""
