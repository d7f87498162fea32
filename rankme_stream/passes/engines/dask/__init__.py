"""A pass on the workers of a Dask cluster; the only package that imports distributed."""
