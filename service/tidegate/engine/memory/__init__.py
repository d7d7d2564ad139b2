"""What is remembered of sessions: a schema of columns, slots, and the slabs that hold them; and all of it as bytes."""
