"""Files that are right or refused: folders anywhere, checkpoints with their digest, sealed JSON."""
