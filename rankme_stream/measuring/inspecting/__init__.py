"""What a source is, found out from its metadata and a few of its rows."""
