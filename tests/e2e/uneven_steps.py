"""Training steps on uneven rows, under any launcher.

    python -m tests.e2e.uneven_steps FOLDER LOSS ROWS LIMIT [PROMPTS SHARE]

The first process has the longest rows. Writes the weights to FOLDER, and `passes-RANK.json` with the shapes of each
process's forward passes. With a number of PROMPTS the rows share them, and the update forwards them once unless SHARE
is `no`.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from tiny import make_trainer, terse, word_parts
from uneven_rows import feed

from metarlgym.runtime.run_process import run_process


def main(folder: str, loss_type: str, rows: str, limit: str, prompts: str = "0", share: str = "yes") -> None:
    group = terse("Doors-v0")
    trainer = make_trainer(
        folder,
        group,
        word_parts(group),
        per_device_train_batch_size=int(rows),
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=4,
        loss_type=loss_type,
        micro_batch_tokens=int(limit) or None,
        share_prefixes=share == "yes",
        optim="sgd",
        learning_rate=0.3,
        lr_scheduler_type="constant",
    )
    feed(trainer, longest_first=True, prompts=int(prompts))
    passes: list[tuple[int, ...]] = []
    inner = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        passes.append((len(inputs["prompt_ids"]), inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]))
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    trainer.save_model(folder)
    rank = trainer.accelerator.process_index
    Path(folder, f"passes-{rank}.json").write_text(json.dumps(passes))
    if rank == 0:
        Path(folder, "log.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    # Ends as the commands do: else threads of the process group may abort the process.
    sys.exit(run_process(lambda: main(*sys.argv[1:])))
