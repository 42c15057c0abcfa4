"""Outer rules: how Meta follows the meta-gradient."""
