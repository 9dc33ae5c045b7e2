"""What a report asks that a surface does not hold, measured at its centre; the half of a report that needs torch."""

from lossnav.reports.measuring.parts import measure

__all__ = ["measure"]
