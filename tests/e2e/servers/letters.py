"""A chat task on which even an untrained model earns different returns, so that gradients are not zero.

A hidden class of characters; the reward of an action is the share of its characters that belong to it.
"""

import string

from metarlgym import Env, Step, register

CLASSES = {
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "other": string.digits + string.punctuation,
}


class Letters(Env):
    max_turns = 2

    def rules(self):
        return "Some characters are worth points, others are not. Write a few."

    def sample_task(self, rng):
        return {"class": rng.choice(sorted(CLASSES))}

    def on_reset(self, params, rng):
        self._wanted = set(CLASSES[params["class"]])
        return "Write."

    def on_step(self, action):
        share = sum(character in self._wanted for character in action) / max(1, len(action))
        return Step(f"Share: {share:.2f}.", share, False, False, {"success": share == 1.0})

    def random_action(self, rng):
        return rng.choice("aA1")


register("Letters-v0", Letters)
