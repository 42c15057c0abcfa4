"""Meta-training and scoring: the only folder that knows torch.func."""
