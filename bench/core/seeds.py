"""Explicit generators, one for each purpose, so that no draw depends on how often another was made."""

import hashlib

from torch import Generator


def generator(*purpose: int | str) -> Generator:
    """A CPU generator that depends on nothing but `purpose`, such as (seed, "train", block)."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
