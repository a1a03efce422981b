"""Settings of small runs that tests start from: `{**TRAIN, "max_steps": 1}`."""

TRAIN = {
    "env_id": "Doors-v0",
    "env_args": {"doors": 3, "style": "terse"},
    "episodes": 2,
    "trials_per_task": 4,
    "imitation_trials": 0,
    "scratch_hidden_size": 16,
    "scratch_layers": 1,
    "scratch_heads": 2,
    "per_device_train_batch_size": 8,
    "max_steps": 3,
    "threads": 1,
    "final_eval_trials": 4,
}
MADE_FROM_SCRATCH = tuple(name for name in TRAIN if name.startswith(("scratch_", "imitation_")))
"""Settings that a given model leaves out."""
PRETRAIN = {
    "source": "piecewise",
    "source_args": {"law": "lin", "T": 16},
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 2,
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "use_cpu": True,
}
