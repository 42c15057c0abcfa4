"""Data for `reports/`, which draws them."""
