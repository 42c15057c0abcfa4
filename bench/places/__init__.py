"""Where cells run: processes of this machine, or a cluster."""
