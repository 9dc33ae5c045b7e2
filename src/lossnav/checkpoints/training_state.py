"""Parts of a checkpoint that have the names of parameters but are not weights, recognised by words in their names.

Adam's averages of gradients, gradients, importances of weights (Fisher), masks: each has the names and shapes of the
weights, so that only the word above them tells the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_NOT_WEIGHTS = re.compile(  # parts of words that are sufficient
    r"(?<![a-z])(optimi[sz]ers?(state)?s?|optims?|opt|grads?|gradients?|moment(s|a|um|ums)|velocit(y|ies)|"
    r"(max_)?exp_avgs?(_sqs?)?|exp_infs?|(square|sq)_avgs?|avg_sqs?|acc_deltas?|accumulators?|"
    r"grad_?accum\w*|fishers?|hess|hessians?|importances?|omegas?|eligibilit(y|ies)|preconditioners?)(?![a-z])"
)
_NOT_WEIGHTS_ALONE = re.compile(  # whole words; as parts they also occur in names of networks (mask_rcnn, noise2noise)
    r"(pruning_|weight_|param(eter)?_)?(masks?|deltas?|updates?|perturbations?|noises?|sigmas?|stds?|stdevs?|"
    r"var|vars|variances?|sq_means?|square_means?|steps?_sizes?|learning_rates?|lrs?|residuals?|error_feedbacks?|"
    r"(inner_)?directions?|sensitivit(y|ies)|salienc(y|ies)|scores?)(_(dict|state|state_dict|buffers?))?"
)
_NETWORK = re.compile(  # final nouns of networks, such as an encoder that follows another by momentum
    r"(?<![a-z])(models?|nets?|networks?|encoders?|decoders?|backbones?|heads?|modules?|predictors?|generators?|"
    r"teachers?|students?|critics?|polic(y|ies)|actors?|targets?|fields?|layers?|blocks?|branch(es)?)\d*$"
)


@cache
def is_training_state(word: str) -> bool:
    """Return whether values under a word of a checkpoint, with the names of parameters, are not weights.

    Examples
    --------
    >>> [is_training_state(word) for word in ("exp_avg", "optimizerG", "grad_buffer", "fisher", "masks")]
    [True, True, True, True, True]
    >>> [is_training_state(word) for word in ("ema", "momentum_encoder", "optimal", "mask_rcnn", "gradual", "step_100")]
    [False, False, False, False, False, False]
    """
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower()).strip("_")
    if _NETWORK.search(plain):
        return False
    return bool(_NOT_WEIGHTS.search(plain) or _NOT_WEIGHTS_ALONE.fullmatch(plain))


def state_words(words: Iterable[str]) -> list[str]:
    """Return the words of a name that show that it is not a weight."""
    return [word for word in words if is_training_state(word)]
