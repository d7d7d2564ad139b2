"""HTTP: metrics and probes."""
