"""Write docs/STUDIES.md, its pictures and records/studies/ from the studies that MLflow keeps.

python docs/studies.py [--uri sqlite:///mlflow.db] [--experiment contray]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from contray import track
from contray.studies.page import write

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--uri", default="", help="MLflow's store; else MLFLOW_TRACKING_URI, else mlflow.db in this folder")
    parser.add_argument("--experiment", default="contray")
    options = parser.parse_args()
    names = write(track.resolve_uri(options.uri), options.experiment, ROOT / "docs", ROOT / "records" / "studies")
    print(f"docs/STUDIES.md: {len(names)} studies: {', '.join(names)}")


if __name__ == "__main__":
    main()
