"""Thresholds between ok, note and warning, each with its reason. docs/report.md has them in a table.

A warning is for what is misleading: someone who sees the picture without this information would say something false. A
note is for what the picture does not show.
"""

from __future__ import annotations

# ---------------------------------------------------------------------- the picture

CENTRAL = 0.25
"""Fraction of the reach of each coordinate that counts as the middle of a picture, where a minimum is described."""

SURE = 2.0
"""Standard errors from which a difference is significant: about one in twenty exceeds them by chance."""

# ---------------------------------------------------------------------- directions

ORTHOGONAL = 1e-3
"""|cosine| up to which directions are called orthogonal, not nearly orthogonal: rounding of half precision."""

NOT_ORTHOGONAL = 0.1
"""|cosine| above which a circle in weight space is visibly an ellipse (axes 1 : 1.1)."""

NEARLY_PARALLEL = 0.9
"""|cosine| above which it is an ellipse of 4.4 : 1: both axes show nearly the same direction."""

UNEQUAL = 2.0
"""Ratio of lengths above which curvature along one axis looks four times as large as along the other."""

VERY_UNEQUAL = 10.0
"""Ratio of lengths above which it looks a hundred times as large: the shape depends on the units."""

ONE_TENSOR = 0.9
"""Fraction of a direction's squared length in one tensor above which the picture mostly shows that tensor."""

RADIAL = 0.5
"""|cosine| of a direction with the weights above which mostly their norm changes along it."""

# ---------------------------------------------------------------------- between networks

STATISTICS_STEP = 0.25
"""Distance, in standard deviations, of a network's running mean from that of the repair data, above which the loss
visibly jumps beside the network: a unit's share of active samples changes by a tenth."""

# ---------------------------------------------------------------------- noise

FEW_SAMPLES = 30
"""Number of samples below which a standard error itself has an error of 13 % (1/sqrt(2n)) or more."""

ROUNDED = 0.1
"""Numerical error relative to the rise in the middle above which it is visible as a shape."""

ROUNDED_NOTE = 0.01
"""The same, above which contours move."""

ROUNDINGS = 8
"""Assumed error of a loss in units in the last place: a sum over layers, each rounded."""

# ---------------------------------------------------------------------- the centre

NOT_A_MINIMUM = 0.01
"""Possible decrease of the loss near the centre, relative to the rise in the middle, above which the centre is not a
minimum of the picture: in a bowl, a bottom at a tenth of the middle's reach. It is not relative to the loss, since a
constant added to a loss does not change its minima."""

NOT_QUITE = 0.001
"""The same for a note: a smaller decrease is less than the width of a line in the picture. Losses of networks that fit
every sample keep decreasing, more and more slowly."""

OF_THE_SPREAD = 0.01
"""Possible decrease of the mean loss, relative to the standard deviation of single samples' losses, above which there
is a note though the rise of the picture is too large to show it, as for untrained networks."""

DRAWN = 0.1
"""Fraction of the gradient's norm outside the picture up to which the picture shows it: half a percent is missing."""

SADDLE = 0.01
"""-lambda_min / lambda_max above which a centre that looks convex is called a saddle. Li et al. 2018, Fig. 7, show this
ratio: where the surface looks convex it is below about a hundredth, which they call negligible. Below it there is a
note."""

OTHERWISE = 0.1
"""Difference between the curvature of the Hessian and of the points, relative to the latter and besides its error,
above which both are reported."""

HARDLY_BENT = 0.02
"""Negative curvature, relative to the picture's largest, up to which the picture still looks convex."""

FAR_BELOW = 100.0
"""Ratio of the strongest eigenvalue to the strongest curvature drawn, above which the picture shows no sharpness."""

UNTYPICAL = 3.0
"""Standard deviations over random directions above which the curvature of the picture is not typical."""

RESCALED = 0.001
"""Relative change of the picture's curvature by rescaling layers above which the directions do not follow it: the
change is either rounding, or grows with the factor."""

SAME_LOSS = 1e-4
"""Difference of the losses of two networks that compute the same function in float32, relative to typical differences
of losses: over the samples, or when all weights shrink by a tenth."""

# ---------------------------------------------------------------------- paths

LIKE_A_WALK = 0.25
"""Share of the variance that a random walk does not explain, which a path must explain to differ from a walk."""

BELOW_A_WALK = -0.25
"""The same, below which the components explain less than for a walk, as for snapshots around one point."""

NO_ROOM = 0.99
"""Explained share of a random walk above which a path cannot explain noticeably more."""

HARDLY_MORE = 0.5
"""The same, below which there is a note."""

FAR_FROM_PLANE = 0.5
"""Root mean square distance of the path from its projection, relative to that from the centre, above which more than a
quarter of the path's variation is not drawn."""

OFF_PLANE = 0.2
"""The same for a note."""

SHADOW_LOSS = 0.5
"""Difference between the losses at a snapshot and at its projection (median), relative to the range of losses along the
path, above which the surface under the path does not show the loss of the run."""

GROWTH = 0.5
"""Share of a path's variation that is a change of the weights' norm, above which the path mostly shows that."""

# ---------------------------------------------------------------------- points

HOLES = 0.1
"""Fraction of the points without a finite loss above which the picture is misleading."""

COARSE = 11
"""Points along an axis below which a ripple of a fifth of the range has fewer than two points per wave."""

JAGGED = 0.2
"""Median distance of points from the chord of their neighbours, relative to their range, above which the shape between
the points is not resolved."""

AT_THE_RIM = 0.01
"""Share of the rise in the inner half below which it looks flat on a linear scale, whatever its shape."""

UNRESOLVED = 0.1
"""Fraction of an adaptive sampler's cells above its tolerance, above which there is a warning."""

NOISE_OF_RANGE = 0.03
"""Difference between two evaluations at one place, relative to the range of losses, above which noise is visible."""

INTERPOLATED = 0.1
"""Relative error of interpolated values (99th percentile, leave-one-out) above which they are misleading."""

INTERPOLATED_NOTE = 0.01
"""The same for a note."""

SEEDS_DIFFER = 0.5
"""Standard deviation over seeds of the directions, relative to the mean rise above the centre (median over the points),
above which one picture says little about another."""
