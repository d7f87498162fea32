"""HDF5 files: h5py says what a dataset is, and the bytes of its chunks are read and decoded without it."""
