"""Batches on their way, from the judgement of their rows to what their sessions remember, and the short ways of it."""
