"""A live session of the explorer: a worker thread evaluates the objective where the page looks."""
