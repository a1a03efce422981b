"""The files that each kind of run writes. Only these are ever removed; all others in a run folder are the user's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metarlgym.runtime.lock import LOCK
from metarlgym.runtime.mark import COMPLETE, recorded

RUN = "run.json"
PICTURE_MARK = b"metarlgym selflearn"
"""Marker in the metadata of a report's pictures."""


@dataclass(frozen=True)
class Tree:
    """Names that may be written to a folder, as regular expressions that match the full name."""

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
    """Whether a run wrote the file; for very common names the content decides."""
    if path.name == "README.md":
        start = path.read_bytes()[:4096]  # TRL's model card, present in runs of earlier versions
        return start.startswith(b"---") and b"generated_from_trainer" in start
    if re.fullmatch(PICTURES, path.name):
        return PICTURE_MARK in path.read_bytes()[:4096]
    return True


PICTURES = r"\d+_[a-z0-9_]*\.png"
TOKENIZER = (
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|tekken)\.json",
    r"(vocab|merges)\.txt|chat_template\.jinja",
    r"(tokenizer|spiece|sentencepiece|sentencepiece\.bpe|spm)\.model",
)
WEIGHTS = (
    r"(model|pytorch_model|adapter_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)",
    r"(model|pytorch_model|adapter_model)\.(safetensors|bin)\.index\.json",
    r"(config|generation_config|adapter_config)\.json",
)
MARKS = (rf"{COMPLETE}(\.part)?", r"README\.md", r"metarlgym\.json", r"training_args\.bin")
MODEL = Tree((*TOKENIZER, *WEIGHTS, *MARKS))
"""File names that libraries always use. Models with their own code write others: see `written`."""
SHARDS = Tree(
    (
        r"((bf16|fp16)_)?(zero_pp_rank_\d+_)?mp_rank_\d+_(model|optim)_states\.pt",  # DeepSpeed
        r"__\d+_\d+\.distcp|\.metadata",  # FSDP
    )
)
CHECKPOINT = Tree(
    (
        *MODEL.files,
        r"optimizer\.(pt|bin)|(scheduler|scaler)\.pt|rng_state(_\d+)?\.pth",
        r"(trainer_state|entropy_ctrl_state)\.json|ref_model\.safetensors",
        r"latest|zero_to_fp32\.py",  # DeepSpeed
    ),
    {r"global_step\d+": SHARDS, r"(pytorch_model_fsdp|optimizer)_\d+": SHARDS},
)
FINAL = Tree(MODEL.files, {"adapter": MODEL})
CHECKPOINT_NAME = r"checkpoint-\d+"
_WRITTEN_WHOLE = r"config\.yaml|settings\.json|run\.json|version\.txt"
EVERY_RUN = (re.escape(LOCK), rf"({_WRITTEN_WHOLE})(\.part)?")
LOGS = (r"metrics\.jsonl(\.part)?", r"trials\.jsonl(\.part)?")
VARIANTS = "|".join(
    (
        r"(score|target|target_seen)-(live|live_detached|frozen|ema_[\d.e+-]+|refreshed|grounded|phase_a)"
        r"-(\d+|stop|reanchor|phase_a)",
        r"(gist-\d+|no_bottleneck|no_gist|space-(token|frozen|ema|live|guarded|noise))-seed\d+",
        r"hypergradient",
        r"(uniform|oracle|(weights|weights_full|gist|gist_ce)-(next|random|similar)|redrawn|redrawn_uniform)-seed\d+",
    )
)
"""Names of the variants of the three self-learning experiments."""
LAYOUTS = {
    "train": Tree(
        (*EVERY_RUN, *LOGS, r"eval\.json", r"adaptation\.png", r"README\.md", "STOP", "STOPPED"),
        {
            "start": Tree(MODEL.files, {"warmup": Tree((r"README\.md",))}),
            "final": FINAL,
            CHECKPOINT_NAME: CHECKPOINT,
            "completions": Tree((r"completions_\d+\.parquet", r"README\.md")),
        },
    ),
    "pretrain": Tree(
        (*EVERY_RUN, *LOGS, r"(summary|curves)\.json", r"(curves|dynamics)\.png"),
        {"best": MODEL, "final": MODEL, CHECKPOINT_NAME: CHECKPOINT},
    ),
    "selflearn": Tree(
        (*EVERY_RUN, r"summary\.json", r"report\.html", PICTURES),
        dict.fromkeys(("variants", "arms"), Tree((rf"({VARIANTS})\.(jsonl|json(\.part)?)",))),  # arms: earlier versions
    ),
}
"""Files by kind of run. TensorBoard's event files are excluded: their names are unique and they are never removed."""


def entries(folder: Path, tree: Tree) -> Iterator[Path]:
    """Entries of a folder that have a name a run writes, sorted by name."""
    yield from (path for path in sorted(folder.iterdir()) if tree.named(path.name))


def written(folder: Path, tree: Tree) -> Tree:
    """The files a run wrote to a folder: those listed in `COMPLETE`, or if it lists none, those that may be written."""
    names = recorded(folder)
    if not names:
        return tree
    listed = _exactly([tuple(name.split("/")) for name in (*names, COMPLETE, f"{COMPLETE}.part")])
    # Some folders that a run creates may stay empty, such as start/warmup. `below` returns the first match.
    return Tree(listed.files, {**listed.folders, **{name: Tree() for name in tree.folders.keys() - listed.folders}})


def _exactly(names: Iterable[tuple[str, ...]]) -> Tree:
    files, folders = [], defaultdict(list)
    for first, *rest in names:
        if rest:
            folders[re.escape(first)].append(tuple(rest))
        else:
            files.append(re.escape(first))
    return Tree(tuple(files), {name: _exactly(below) for name, below in folders.items()})


def foreign(folder: Path, tree: Tree) -> Path | None:
    """The first file that no run wrote but that has a name a run writes; all links count as such.

    Args:
        folder: a run folder.
        tree: the files that may be written there.
    """
    return next(_foreign(entries(folder, tree), tree), None)


def foreign_inside(folder: Path, tree: Tree) -> Iterator[Path]:
    """Everything in a subfolder of a run folder that no run wrote; a foreign folder is yielded without its contents."""
    yield from _foreign(sorted(folder.iterdir()), written(folder, tree))


def _foreign(paths: Iterable[Path], tree: Tree) -> Iterator[Path]:
    for path in paths:
        below = tree.below(path.name)
        if path.is_symlink():
            yield path
        elif path.is_dir():
            if below is None:
                yield path
            else:
                yield from foreign_inside(path, below)
        elif not tree.owns_file(path):
            yield path


def remove(folder: Path, tree: Tree, keep: tuple[str, ...] = ()) -> None:
    """Remove what a run wrote; all other files and the folders that hold them stay."""
    for path in sorted(entries(folder, tree), key=lambda path: path.name == COMPLETE):  # COMPLETE, the list, last
        if path.name in keep or path.is_symlink():
            continue
        below = tree.below(path.name)
        if path.is_dir():
            if below is not None:
                remove_tree(path, below)
        elif tree.owns_file(path):
            path.unlink()


def remove_tree(folder: Path, tree: Tree) -> None:
    """Remove a folder that a run wrote, except for foreign files."""
    remove(folder, written(folder, tree))
    if not any(folder.iterdir()):
        folder.rmdir()
