"""The task groups that come with the project. One module each; importing this registers them."""

from metarlgym.registry import register

register(
    "Doors-v0",
    "metarlgym.envs.doors:Doors",
    summary="One of K doors holds a prize; a safe door pays less for sure. Explore, then repeat.",
)
