"""Stores: where checkpoints of sessions live. One protocol, one contract suite (`tests/store`), several places."""
