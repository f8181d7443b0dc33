"""Generated from proto/raftkv/v1 by `make proto`. Do not edit."""
