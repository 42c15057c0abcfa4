"""One cell's life, from its specification to its record."""
