"""This process: its processors, its memory, and how it starts others."""
