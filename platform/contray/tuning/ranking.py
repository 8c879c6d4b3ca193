"""What trials are ranked by."""

from .trial import ONLINE

UNLABELLED = "rankme"
METRICS = (ONLINE, "linear_val_top1", UNLABELLED)


def online_of(metric: str) -> str:
    """What the scheduler goes by while trials train that are ranked on `metric` at their end."""
    return metric if metric == UNLABELLED else ONLINE


def shown(metric: str, value: float) -> str:
    """A value as people read it: a share in per cent, a rank as it is."""
    return f"{value:.1f}" if metric == UNLABELLED else f"{100 * value:.1f} %"
