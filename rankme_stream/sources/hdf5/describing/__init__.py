"""Program that describes HDF5 files in a process of its own; see `program`."""
