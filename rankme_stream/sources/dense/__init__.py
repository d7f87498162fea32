"""Files that hold one block of numbers behind a header: each module reads the header of a format."""
