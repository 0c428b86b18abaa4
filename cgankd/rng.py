"""Randomness as a function of (seed, what for, step): a resumed loop draws what it would have drawn."""

from __future__ import annotations

import hashlib

import torch


def derive(*keys: int | str) -> int:
    """A 63-bit seed that depends on every key and on their order."""
    digest = hashlib.sha256("/".join(map(repr, keys)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by the keys, for example generator(seed, "bank", shard)."""
    return torch.Generator().manual_seed(derive(*keys))


def seed_all(*keys: int | str) -> None:
    """Seed torch's global generator, for layers that take no generator (initialisation, dropout)."""
    torch.manual_seed(derive(*keys))
