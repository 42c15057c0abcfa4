"""What was asked -> cells: which, by which engine, how long."""
