"""From a request to a measurement: read, read again while the interval is too wide, estimate."""
