"""Whose memory it is: versions, names, pages of them, and how sessions move: to the store, to bytes, to a version."""
