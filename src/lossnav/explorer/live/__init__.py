"""A live objective in the explorer: one worker evaluates where the page looks."""
