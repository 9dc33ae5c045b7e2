"""Pictures of surfaces: matplotlib for papers, plotly for interactive views. Works without torch."""

from lossnav.plots.figures import animate, compare, connectivity, contour, heatmap, line, spectrum, surface, tree, write

__all__ = ["animate", "compare", "connectivity", "contour", "heatmap", "line", "spectrum", "surface", "tree", "write"]
