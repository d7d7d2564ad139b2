"""The engine: sessions as columns, batches of one step each, one writer. Sans-I/O but for `loop`."""
