"""The vocabulary that suites, algorithms and the harness share; imports nothing else of this project."""
