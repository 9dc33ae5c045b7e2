"""Pictures of surfaces: matplotlib for paper, plotly to turn and zoom. No torch needed."""

from lossnav.plots.figures import animate, compare, contour, heatmap, line, spectrum, surface, write

__all__ = ["animate", "compare", "contour", "heatmap", "line", "spectrum", "surface", "write"]
