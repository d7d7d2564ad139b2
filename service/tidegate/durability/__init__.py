"""Durability: sessions that outlive the process, in a store, beside the loop.

keeper.py     one task that does all of it in turn, so that no two requests for a session overtake each other
arrivals.py   sessions that are asked for and not here: claimed in the store, made resident
exits.py      sessions that leave: saved, released, or deleted when they were closed
passes.py     checkpoints of what moved; what is durable by that: answers held, messages of streams
lease.py      this replica's life sign, and what others want of it
"""

from tidegate.durability.keeper import Durability

__all__ = ["Durability"]
