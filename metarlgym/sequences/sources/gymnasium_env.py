"""`gymnasium.make("meta-lm-v0", V=64, n=10, l=64, e=0.1, L=4096)`: MetaGym's interface to MetaLM.

A generator of arrays behind the gymnasium API, registered only with gymnasium: our own registry holds text
environments, including the game `MetaLM-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarlgym.datatypes import ConfigError, EpisodeOver
from metarlgym.sequences.sources import MetaLM


class MetaLMGenerator(gymnasium.Env[np.ndarray, np.ndarray]):
    """`data_generator()` and `batch_generator(batch_size)` return an endless supply of samples; see `MetaLM`.

    As an environment, `reset` returns a sequence. A single step takes a label for each position, gives the fraction of
    correct labels as reward and ends the episode; `info["label"]` then holds the true labels.

    Args:
        V: content symbols 1..V-1.
        n: elements of a language.
        l: mean length of an element.
        e: probability that a symbol is corrupted.
        L: length of a sequence.
        seed: seed of the samples; None for a random one. `reset(seed=...)` replaces it.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        V: int = 64,
        n: int = 10,
        l: float = 64,  # noqa: E741 (the published name)
        e: float = 0.1,
        L: int = 4096,
        seed: int | None = None,
        render_mode: None = None,
    ) -> None:
        self.source = MetaLM(V, n, l, e, L, seed)
        self.observation_space = spaces.MultiDiscrete(np.full(L, self.source.vocab_size))
        self.action_space = self.observation_space
        self._label: np.ndarray | None = None

    def data_generator(self) -> tuple[np.ndarray, np.ndarray]:
        """The next sample: observation and label, each `(L,)` int64."""
        return self.source.data_generator()

    def batch_generator(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The next samples: observations and labels, each `(batch_size, L)` int64."""
        return self.source.batch_generator(batch_size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            old = self.source
            self.source = MetaLM(old.V, old.n, old.l, old.e, old.L, seed)
        observation, self._label = self.source.data_generator()
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._label is None:
            raise EpisodeOver("meta-lm-v0: step() needs a sequence. Call reset() first.")
        label, given = self._label, np.asarray(action)
        if given.shape != label.shape:
            raise ConfigError(f"action has shape {given.shape}: give one label for each place, {label.shape}.")
        self._label = None
        reward = float((given == label).mean())
        return label, reward, True, False, {"label": label, "success": reward == 1.0}
