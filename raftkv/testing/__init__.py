"""Tools for testing raftkv and what is built on it: real clusters, and faults on the links between their nodes."""
