"""TLS: certificates from files, kept up to date while a node runs, and what they say about who a peer is."""
