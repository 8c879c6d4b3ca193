"""The page itself: what is on record and what the encoder shows, through the template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import data, model, track
from ..config import RunConfig
from ..errors import UserError
from ..model.encoder import Encoder, read_checkpoint, read_folder
from .encoded import Sampled, Show
from .html import Section
from .origin import subtitle
from .record import Record
from .sections import Measurable, all_sections, cards

TEMPLATE = Path(__file__).with_name("page.html")


def written(record: Record, show: Show = lambda message: None) -> str:
    """The HTML of a record; show: takes what `TrainingBar.show` takes."""
    had, config = measurable(record, show)
    sections = all_sections(record, had, config, lambda words: show({"phase": words}))
    return rendered(record.name, subtitle(record, config), cards(record), sections)


def rendered(name: str, about: Mapping[str, str], cards: Sequence[tuple[str, str, str]], sections: Sequence[Section]) -> str:
    """A page that needs nothing but itself. about: words below its name; cards: (what, number, words beside) that stand large."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text()
    )
    return template.render(name=name, about=about, cards=cards, sections=sections) + "\n"


def measurable(record: Record, show: Show) -> tuple[Measurable, RunConfig | None]:
    """The encoder and its data as far as they can be had, and the run's config."""
    missing = encoder = subject = config = None
    try:
        config = RunConfig.from_yaml(record.config, encoder=True) if record.config else None
        encoder = _encoder(record)
        config = config or encoder.config
    except (UserError, OSError) as error:
        missing = str(error)
    if encoder is not None:
        try:
            source = data.open_source(encoder.config)
            shut = 0
            if not record.opened and source.test is not None:
                shut = len(source.test)
                source = dataclasses.replace(source, test=None)
            device = model.device_of(encoder.config)
            subject = Sampled(encoder.config, source, encoder.method.to(device).eval(), device, show=show, shut=shut)
            show({"step": 0, "total": subject.total, "unit": "image", "phase": "encoding"})
        except (UserError, OSError) as error:
            missing, subject = f"the data cannot be read ({error})", None
    record.lacks = missing or ""
    return Measurable(encoder, subject, record.lacks), config


def _encoder(record: Record) -> Encoder:
    """As MLflow keeps it, else from the run's newest checkpoint."""
    if record.tracked is None:
        return read_checkpoint(record.checkpoint)
    try:
        return read_folder(track.fetch_encoder(record.tracked.uri, record.tracked.run_id))
    except UserError as error:
        if not record.checkpoint:
            raise
        try:
            return read_checkpoint(record.checkpoint)
        except (UserError, OSError) as other:
            raise UserError(f"{error}; nor is there a checkpoint ({other})") from None
