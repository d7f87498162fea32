"""Stores as other libraries write them, and real servers: run by `make test-writers`, one file for each writer."""
