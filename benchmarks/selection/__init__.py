"""A benchmark of whether metrics choose good encoders."""
