"""Published figures, made again."""
