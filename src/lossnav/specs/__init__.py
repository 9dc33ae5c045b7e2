"""From the words of a user to an objective, and whether the code that they name may be run."""
