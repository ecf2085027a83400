"""The results of a study: Pareto sets, the front, racing and the verdict, as pure functions."""
