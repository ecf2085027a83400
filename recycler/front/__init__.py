"""What a study found: Pareto arithmetic, the front, races, the verdict; pure functions."""
