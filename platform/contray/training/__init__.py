"""Training: the loop, its checkpoints, and Ray Train around it."""
