"""Protocols: how a cell begins, goes on and is scored."""
