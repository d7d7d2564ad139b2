"""From what people hold to what the wire carries, and back. Pure."""
