"""Search domains: in words, and as Optuna has them."""

from __future__ import annotations

from typing import Any


def describe_domain(domain: Any) -> str:
    """A Tune domain in words."""
    if isinstance(domain, dict):
        return f"each of {', '.join(map(str, domain['grid_search']))}"
    if hasattr(domain, "categories"):
        return f"one of {', '.join(map(str, domain.categories))}"
    return f"{domain.lower:g} to {domain.upper:g}{' (log)' if logarithmic(domain) else ''}"


def listed(domain: Any) -> list[Any] | None:
    """The values of a choice or a grid; None of a range."""
    return list(domain["grid_search"]) if isinstance(domain, dict) else getattr(domain, "categories", None)


def logarithmic(domain: Any) -> bool:
    """Whether a range is drawn by its logarithm."""
    return listed(domain) is None and "log" in type(domain.get_sampler()).__name__.lower()


def distribution(domain: Any) -> Any:
    """Optuna's distribution of a Tune domain; a grid is a choice."""
    from optuna.distributions import CategoricalDistribution
    from ray.tune.search.optuna import OptunaSearch

    if isinstance(domain, dict):
        return CategoricalDistribution(domain["grid_search"])
    return OptunaSearch.convert_search_space({"key": domain})["key"]
