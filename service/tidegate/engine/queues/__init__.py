"""What waits: the inbox of what front-ends put in, the rows of each lane by turn, and rows without a session yet."""
