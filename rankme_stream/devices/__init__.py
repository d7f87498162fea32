"""The few operations that differ between devices; one module a device."""
