"""Sessions stepped ahead on copies, predictions or draws fed back, below live rows."""
