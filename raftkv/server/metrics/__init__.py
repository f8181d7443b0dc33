"""What a node tells Prometheus: the table of names, where the numbers come from, and how they are written."""
