"""Messages on streams: numbered, sent again as needed, kept until durable, given back to a server that lost some."""
