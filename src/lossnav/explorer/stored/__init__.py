"""A stored surface in the explorer: what it shows, answers and exports. No torch."""
