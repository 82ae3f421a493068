"""What a run found, for people: one self-contained HTML page, and a table for the terminal."""
