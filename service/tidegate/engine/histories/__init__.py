"""Past steps of a session that are taken as one, below live rows."""
