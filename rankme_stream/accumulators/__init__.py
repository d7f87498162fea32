"""What a pass keeps of the rows: one method, one module."""
