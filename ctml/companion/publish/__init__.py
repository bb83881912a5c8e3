"""What readers see: the tables in `results/` and the README, and the static site."""
