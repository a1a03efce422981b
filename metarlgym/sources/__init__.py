"""Sequence worlds: generators of sequences whose law is known exactly. numpy and numba only."""

from metarlgym.sources.base import Source
from metarlgym.sources.metalm import MetaLM
from metarlgym.sources.piecewise import Piecewise
from metarlgym.sources.pseudo import PseudoLanguage
from metarlgym.sources.rlm import RLM

__all__ = ["RLM", "MetaLM", "Piecewise", "PseudoLanguage", "Source"]
