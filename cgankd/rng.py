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
    """Seed torch's global generator, for layers that take no generator (initialisation, dropout).

    The numbers are those after `torch.manual_seed`. That one also notes the seed, with the text of the whole stack, for each kind
    of device that was never used, which takes as long as half a step of a small net.
    """
    seed = derive(*keys)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # A training brings its nets to the device before it seeds a step.
        torch.cuda.manual_seed_all(seed)
