"""What the stored numbers of an array mean, decided from its metadata."""
