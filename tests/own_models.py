"""Models of a test's own in the zoo."""

from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model


def entry(name, function, **card):
    """The record of a model that ``function`` builds."""
    return Model(name=name, function=function, card=Card(paper="", **card))
