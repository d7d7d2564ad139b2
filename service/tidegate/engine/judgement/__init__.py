"""What one observation does to its session: the rules, what comes late, what is missing. Pure: NumPy alone."""
