"""What every start refuses before Ray, a GPU or a folder is taken: of runs, seeds, sweeps and studies alike."""

from __future__ import annotations

from .. import data, model, track
from ..config import RunConfig
from ..evaluation.common.samples import check_measurable
from .ray_train import check_machines


def check_config(config: RunConfig, source: data.Source) -> None:
    """Raises ConfigError for what the method cannot train on, the views cannot read, or the evaluations cannot measure."""
    model.check(config, len(source.train))
    check_samples(config, source)


def check_samples(config: RunConfig, source: data.Source) -> None:
    """The same but for the method, of whose keys a sweep's base may lack some that its space has."""
    data.check_views(source.train, config.views)
    check_measurable(config, source)


def check_surroundings(config: RunConfig, exists: bool = False) -> str:
    """MLflow's address, which answers; workers can be placed and listeners are there. exists: its store must be there already.

    Raises UserError.
    """
    check_machines(config)
    track.listeners.load(config.track.listeners)
    uri = track.resolve_uri(config.track.uri)
    track.check(uri, exists=exists)
    return uri
