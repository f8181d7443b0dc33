"""The gRPC faces of a node, one file for each service of proto/raftkv/v1."""
