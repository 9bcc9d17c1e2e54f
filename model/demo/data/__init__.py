"""Synthetic dialogues for the demo model: every skill is one small file."""
