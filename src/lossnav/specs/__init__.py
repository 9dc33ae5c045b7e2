"""From a SPEC of the user to an objective, and the decision whether its code may be run."""
