"""What reads and writes run directories."""
