"""Files of tables: Parquet and Arrow; rows of a column of lists or of columns of numbers, and columns of labels."""
