"""What a run of each kind writes. Only these files are ever removed; everything else in a run folder is the user's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metarlgym.runtime.lock import LOCK

RUN = "run.json"
PICTURE_MARK = b"metarlgym selflearn"
"""Stands in the metadata of a report's pictures."""


@dataclass(frozen=True)
class Tree:
    """Names that may be written into a folder: regular expressions for whole names."""

    files: tuple[str, ...] = ()
    folders: Mapping[str, Tree] = field(default_factory=dict)

    def owns_file(self, path: Path) -> bool:
        return any(re.fullmatch(name, path.name) for name in self.files) and _written_by_us(path)

    def named(self, name: str) -> bool:
        """Whether a file or folder of this name may be written."""
        return any(re.fullmatch(known, name) for known in (*self.files, *self.folders))

    def below(self, name: str) -> Tree | None:
        return next((tree for known, tree in self.folders.items() if re.fullmatch(known, name)), None)


def _written_by_us(path: Path) -> bool:
    """Some names are so common that the content has to say whose the file is."""
    if path.name == "README.md":
        start = path.read_bytes()[:4096]  # TRL's model card, which runs of earlier versions have
        return start.startswith(b"---") and b"generated_from_trainer" in start
    if re.fullmatch(PICTURES, path.name):
        return PICTURE_MARK in path.read_bytes()[:4096]
    return True


PICTURES = r"\d+_[a-z0-9_]*\.png"
TOKENIZER = (
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|tekken)\.json",
    r"(vocab|merges)\.txt|.*\.(model|jinja|tiktoken|spm|bpe)",
    r"(processor|preprocessor|video_preprocessor|image_processor|feature_extractor)_?config\.json",
)
WEIGHTS = (
    r"(model|pytorch_model|adapter_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?",
    r"(config|generation_config|adapter_config)\.json",
    r"(configuration|modeling|tokenization)_\w+\.py",  # of models that bring their own code
)
MARKS = (r"COMPLETE(\.part)?", r"README\.md", r"metarlgym\.json", r"training_args\.bin")
TEMPLATES = {"additional_chat_templates": Tree((r".*\.jinja",))}
MODEL = Tree((*TOKENIZER, *WEIGHTS, *MARKS), TEMPLATES)
SHARDS = Tree((r".*\.(pt|bin|distcp)", r"\.metadata"))
CHECKPOINT = Tree(
    (
        *MODEL.files,
        r"(optimizer|scheduler|scaler)(_\d+)?\.(pt|bin)|rng_state(_\d+)?\.pth",
        r"(trainer_state|entropy_ctrl_state)\.json|ref_model\.safetensors",
        r"latest|zero_to_fp32\.py",  # DeepSpeed
    ),
    {**TEMPLATES, r"global_step\d+": SHARDS, r"(pytorch_model_fsdp|optimizer)_\d+": SHARDS},
)
CHECKPOINT_NAME = r"checkpoint-\d+"
EVERY_RUN = (RUN, LOCK, "config.yaml", "settings.json", r"version\.txt", r"(config|settings|run)\.(yaml|json)\.part")
LOGS = (r"metrics\.jsonl(\.part)?", r"trials\.jsonl(\.part)?")
LAYOUTS = {
    "train": Tree(
        (*EVERY_RUN, *LOGS, r"eval\.json(\.part)?", r"adaptation\.png", r"README\.md", "STOP", "STOPPED"),
        {
            "start": Tree(MODEL.files, {**TEMPLATES, "warmup": Tree((r"README\.md",))}),
            "final": Tree(MODEL.files, {**TEMPLATES, "adapter": MODEL}),
            CHECKPOINT_NAME: CHECKPOINT,
            "completions": Tree((r"completions_\d+\.parquet", r"README\.md")),
        },
    ),
    "pretrain": Tree(
        (*EVERY_RUN, *LOGS, r"(summary|curves)\.json(\.part)?", r"(curves|dynamics)\.png"),
        {"best": MODEL, "final": MODEL, CHECKPOINT_NAME: CHECKPOINT},
    ),
    "selflearn": Tree(
        (*EVERY_RUN, r"summary\.json(\.part)?", r"report\.html", PICTURES),
        {"variants": Tree((r".+\.(json|jsonl|part)",))},
    ),
}
"""By kind of run. TensorBoard's event files are left out: they lie under names of their own, and are never removed."""


def entries(folder: Path, tree: Tree) -> Iterator[Path]:
    """What lies in a folder under a name that a run writes, by name."""
    yield from (path for path in sorted(folder.iterdir()) if tree.named(path.name))


def foreign(folder: Path, tree: Tree, inside: bool = False) -> Path | None:
    """The first file that stands where a run writes, and that no run wrote; links count, wherever they lead.

    Args:
        folder: a run folder.
        tree: what may be written there.
        inside: every file counts, not only those under a name of ours. So it is below the run folder itself.
    """
    for path in sorted(folder.iterdir()) if inside else entries(folder, tree):
        below = tree.below(path.name)
        if path.is_symlink():
            return path
        if path.is_dir():
            found = path if below is None else foreign(path, below, inside=True)
            if found is not None:
                return found
        elif not tree.owns_file(path):
            return path
    return None


def remove(folder: Path, tree: Tree, keep: tuple[str, ...] = ()) -> None:
    """Remove what a run wrote; what else is there stays, and so do the folders that hold it."""
    for path in list(entries(folder, tree)):
        if path.name in keep or path.is_symlink():
            continue
        below = tree.below(path.name)
        if path.is_dir():
            if below is not None:
                remove_tree(path, below)
        elif tree.owns_file(path):
            path.unlink()


def remove_tree(folder: Path, tree: Tree) -> None:
    """Remove a folder that a run wrote; what is foreign in it stays."""
    remove(folder, tree)
    if not any(folder.iterdir()):
        folder.rmdir()
