"""What `import contray` offers; the CLI calls the same functions. A function has the file of its name."""

from .check import check
from .check_data import check_data
from .compare import compare
from .curate import curate
from .doctor import doctor
from .embed import embed
from .evaluate import evaluate
from .export import export
from .load import load
from .opened import SCALE, TAKEN
from .plot import plot
from .register import register
from .report import report
from .study import study
from .sync import sync
from .train import train
from .tune import tune

__all__ = [
    "SCALE",
    "TAKEN",
    "check",
    "check_data",
    "compare",
    "curate",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "load",
    "plot",
    "register",
    "report",
    "study",
    "sync",
    "train",
    "tune",
]
