"""What a machine, or every node of a cluster, lacks for a run: looked at before days of training, each fault with how to mend it."""
