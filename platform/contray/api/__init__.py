"""What `import contray` offers; the CLI calls the same functions. A function has the file of its name."""

from .embed import embed
from .evaluate import evaluate
from .export import export
from .load import load
from .opened import TAKEN
from .plot import plot
from .register import register
from .sync import sync
from .train import train
from .tune import tune

__all__ = ["TAKEN", "embed", "evaluate", "export", "load", "plot", "register", "sync", "train", "tune"]
