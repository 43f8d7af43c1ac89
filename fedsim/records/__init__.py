"""What a run leaves behind: its directory, its summary and its tables."""
