"""Messages between nodes: a Protocol, gRPC streams that implement it, and an in-memory twin for tests."""
