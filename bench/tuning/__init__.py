"""Hyperparameters: sweeps of equal budgets, and what they chose."""
