"""What is taken of what devices say: how much at once, and how much is kept."""
