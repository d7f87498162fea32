"""The one loop of a pass: blocks to panels to accumulators."""
