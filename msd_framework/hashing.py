"""Hashes that stand for a name and for the contents of a card."""

from __future__ import annotations

import hashlib
import json
from typing import Any

KEY_BYTES = 16
"""Bytes of a name's hash. Two names share one with a probability of 1e-27 among a million."""


def key_of(name: str) -> bytes:
    """A hash of a name, 128 bits: BLAKE2b (Aumasson et al., ACNS 2013).

    >>> len(key_of("42953")), key_of("42953") == key_of("042953")
    (16, False)
    """
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def digest(values: Any) -> str:
    """A hash of values of JSON's types, whatever the order of their keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
