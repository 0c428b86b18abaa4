"""A teacher of several members: their trainings, and what becomes of them."""
