"""A listener: the curves of a run, and how it ended, as a CSV file.

contray train simclr --track.listeners csv_listener.py
"""

import csv
from pathlib import Path

from contray.track import Listener, Run


class Curves(Listener):
    def begin(self, run: Run) -> None:
        self.path = Path(f"{run.name}.csv")  # in the folder in which the command was given
        self.rows = [(0, "method", run.config.flat()["method.name"]), (0, "mlflow", run.run_id)]

    def restore(self, step: int) -> None:
        """The run goes on from its checkpoint of `step`: what came after that is told again."""
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.reader(file) if int(row[0]) <= step and row[1] != "status"]

    def log(self, step: int, values) -> None:
        self.rows += [(step, name, value) for name, value in values.items()]

    def durable(self, step: int) -> None:
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows(self.rows)

    def end(self, status: str, step: int, metrics) -> None:
        self.rows.append((step, "status", status))
        self.durable(step)
