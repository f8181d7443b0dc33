"""Health, metrics and state over HTTP, for probes, Prometheus and people. Nothing here can change anything."""
