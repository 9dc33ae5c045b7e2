"""Where ok ends and a note or a warning begins: every number with its reason. docs/report.md has them in a table.

A warning is for what misleads: someone who looks at the picture and does not know it would say something false. A note
is for what the picture does not show.
"""

from __future__ import annotations

# ---------------------------------------------------------------------- what is looked at

CENTRAL = 0.25
"""Part of the reach of each coordinate that counts as the middle of a picture: what is said of a minimum is said of
it."""

SURE = 2.0
"""Standard errors that a difference must have: about one in twenty by chance."""

# ---------------------------------------------------------------------- directions

ORTHOGONAL = 1e-3
"""|cosine| up to which directions are called orthogonal, and not nearly so: rounding of half precision."""

NOT_ORTHOGONAL = 0.1
"""|cosine| from which a circle in the weights is drawn visibly as an ellipse (axes 1 : 1.1)."""

NEARLY_PARALLEL = 0.9
"""|cosine| from which it is an ellipse of 4.4 : 1: two axes show one direction and a thin sliver beside it."""

UNEQUAL = 2.0
"""Ratio of lengths from which curvature along one axis is drawn four times as large as along the other."""

VERY_UNEQUAL = 10.0
"""Ratio of lengths from which it is a hundred times: the shape of the valley is one of the units."""

ONE_TENSOR = 0.9
"""Part of a direction's squared length in one tensor of several, from which it is a picture of that tensor."""

RADIAL = 0.5
"""|cosine| of a direction with the weights themselves, from which it mostly makes them longer or shorter."""

# ---------------------------------------------------------------------- noise

FEW_SAMPLES = 30
"""Samples below which a standard error is itself known to no better than 13 % (1/sqrt(2n)), less for skewed
losses."""

ROUNDED = 0.1
"""Error of computing, as a part of the relief of the middle, from which it is seen there as a shape."""

ROUNDED_NOTE = 0.01
"""The same, from which contours move."""

ROUNDINGS = 8
"""Units in the last place that a loss is off by where nothing better is known: a sum over layers, each rounded."""

# ---------------------------------------------------------------------- the centre

NOT_A_MINIMUM = 0.01
"""Part of the rise in the middle of the picture by which the loss can be lowered near the centre, from which this is no
minimum of what is drawn: in a bowl, a bottom that lies a tenth of the middle away. Of the loss's own size it is no
part: a constant added to a loss changes no minimum."""

NOT_QUITE = 0.001
"""The same, worth a note: below it, a fall is less than the width of a line in the picture. Losses of networks that fit
every sample fall for ever, by ever less."""

OF_THE_SPREAD = 0.01
"""Part of the standard deviation of single samples' losses by which the mean can be lowered, from which there is a note
though the picture is too high to show it: of a network that is not trained it is a good part."""

DRAWN = 0.1
"""Part of the gradient's norm out of the picture up to which the way down is drawn in it: half a percent shorter."""

SADDLE = 0.01
"""-lambda_min / lambda_max from which a centre that is drawn convex is called a saddle. Li et al. 2018, Fig. 7, draw
this ratio: regions that look convex have negative eigenvalues of less than about a hundredth of the largest, and call
them negligible. Below it there is a note."""

OTHERWISE = 0.1
"""Part of the curvature that the points show by which the Hessian's may differ, beside the error, before both are
told."""

HARDLY_BENT = 0.02
"""Part of the picture's own largest curvature below which a downward one does not keep it from looking convex."""

FAR_BELOW = 100.0
"""Times lambda_max exceeds the mean curvature along random directions, from which the picture's steepness is none."""

UNTYPICAL = 3.0
"""Standard deviations over random directions that the curvature of the picture may lie from their mean."""

RESCALED = 0.001
"""Part by which the picture's curvature may change where the weights are rescaled and the network is the same:
directions follow to rounding, or they do not, by a part that grows with the factor."""

SAME_LOSS = 1e-4
"""Difference of the losses of two networks that compute the same but for rounding in float32, as a part of what losses
differ by: over the samples, or where all weights shrink by a tenth."""

# ---------------------------------------------------------------------- paths

LIKE_A_WALK = 0.25
"""Part of what a random walk leaves out of its plane that the path must bring in beyond it, to be more than a
walk."""

BELOW_A_WALK = -0.25
"""The same, below which the components explain less than of a walk: snapshots about one place have no long way to go
along."""

NO_ROOM = 0.99
"""Part of a random walk that the components explain, from which there is no room for a path to explain more."""

HARDLY_MORE = 0.5
"""The same, below which there is a note."""

FAR_FROM_PLANE = 0.5
"""Root mean square distance of the path from its shadow, as a part of its distance from the centre: beyond it, more
than a quarter of the path's variation is not drawn."""

OFF_PLANE = 0.2
"""The same, worth a note."""

SHADOW_LOSS = 0.5
"""Difference between the loss at a snapshot and at its shadow (median), as a part of the range of losses along the
path, from which the ground under the path is not the path's."""

GROWTH = 0.5
"""Part of a path's variation that is a change of the weights' norm, from which that is what the path shows."""

# ---------------------------------------------------------------------- points

HOLES = 0.1
"""Part of the points without a finite loss, from which the picture is one of what is left."""

COARSE = 11
"""Points along an axis below which a ripple of a fifth of the range has no two points a wave."""

JAGGED = 0.2
"""Median distance of a point from the chord of its neighbours, as a part of their range, beyond which the shape
between points is a guess."""

AT_THE_RIM = 0.01
"""Part of the whole relief that lies in the inner half, below which a linear scale shows a flat middle, whatever is
there."""

UNRESOLVED = 0.1
"""Part of an adaptive sampler's cells above its tolerance, from which the picture is coarser than asked."""

NOISE_OF_RANGE = 0.03
"""Difference between two evaluations of one place, as a part of the range of losses, from which noise shows in a
picture."""

INTERPOLATED = 0.1
"""Relative error of interpolated values (99th percentile, by leaving points out), from which they are no values."""

INTERPOLATED_NOTE = 0.01
"""The same, worth a note."""

SEEDS_DIFFER = 0.5
"""Standard deviation over seeds of the directions, as a part of the mean rise above the centre (median over the
points), from which one picture says little of the next."""
