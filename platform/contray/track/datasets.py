"""The data of a run as MLflow shows them: the column Dataset of the runs' table, and the box that opens from it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.logins import bare

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

    from .. import data

NAME_CHARS, DIGEST_CHARS, PLACE_CHARS = 500, 36, 5000  # MLflow's limits, the last far below its own


@dataclass(frozen=True)
class Dataset:
    """One split, in plain values. `place`: data.source without a login; `context`: training or test."""

    name: str
    digest: str
    context: str
    place: str
    images: int
    classes: int

    def entity(self) -> DatasetInput:
        """As MLflow takes it."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        found = re.match(r"([a-z][a-z0-9+.-]*)://", self.place)
        kind = found[1] if found else "local" if "/" in self.place else "contray"
        columns = [{"type": "binary", "name": "image", "required": True}]
        columns += [{"type": "long", "name": "label", "required": True}] if self.classes else []
        return DatasetInput(
            Entity(
                self.name[:NAME_CHARS],
                self.digest[:DIGEST_CHARS],
                kind,
                json.dumps({"uri": self.place[:PLACE_CHARS]}),
                schema=json.dumps({"mlflow_colspec": columns}),
                profile=json.dumps({"num_rows": self.images, **({"num_classes": self.classes} if self.classes else {})}),
            ),
            tags=[InputTag("mlflow.data.context", self.context)],
        )


def datasets_of(source: data.Source, digest: str, place: str) -> list[Dataset]:
    """The training data, and the test data where there are some; digest: of both; place: data.source."""
    place = bare(place)
    place = str(Path(place).absolute()) if "://" not in place and Path(place).exists() else place
    splits = {"training": (source.name, source.train)}
    if source.test is not None:
        splits["test"] = (f"{source.name} test", source.test)
    return [
        Dataset(name, digest, context, place, len(split), len(source.train.classes) if split.labels is not None else 0)
        for context, (name, split) in splits.items()
    ]
