"""Reproductions of figures of Li et al. 2018 (arXiv 1712.09913)."""
