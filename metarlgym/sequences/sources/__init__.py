"""Sources of sequences whose law is known exactly. numpy and numba only."""

from metarlgym.sequences.sources.base import Source
from metarlgym.sequences.sources.metalm import MetaLM
from metarlgym.sequences.sources.piecewise import Piecewise
from metarlgym.sequences.sources.pseudo import PseudoLanguage
from metarlgym.sequences.sources.registry import SOURCES, find_source, register_source
from metarlgym.sequences.sources.rlm import RLM

__all__ = ["RLM", "SOURCES", "MetaLM", "Piecewise", "PseudoLanguage", "Source", "find_source", "register_source"]

register_source("metalm", MetaLM)
register_source("rlm", RLM)
register_source("piecewise", Piecewise)
register_source("pseudo", PseudoLanguage)
