"""Measurements of a report at the centre of a surface; this part of a report needs torch."""

from lossnav.reports.measuring.parts import measure

__all__ = ["measure"]
