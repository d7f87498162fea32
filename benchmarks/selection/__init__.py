"""Whether the metrics choose good encoders."""
