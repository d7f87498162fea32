"""Whether intervals hold, and how near they come to the truth."""
