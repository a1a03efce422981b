"""`final/`: the trained model as a full checkpoint, which evaluation and servers can load without knowing how it was
trained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel

from metarlgym.models.loading import load_model, loading_alone
from metarlgym.models.saveable import first_line
from metarlgym.runtime.integrity import marked
from metarlgym.runtime.layout import FINAL
from metarlgym.training.arguments import Settings
from metarlgym.training.start import model_form, model_source

if TYPE_CHECKING:
    from metarlgym.training.trainer import MetaGRPOTrainer

ADAPTER = "adapter"


def save_final(trainer: MetaGRPOTrainer, tokenizer: Any, settings: Settings, folder: Path) -> Path:
    """Write `final/`; with LoRA, the adapter to `final/adapter/` and the merged model to `final/`. Collective.

    Merging loads the base model again, on the main process's CPU, because the trainer's copy may be sharded.

    Raises:
        AgreedError: on all processes, if it cannot be written. The last checkpoint then holds the trained model; it is
            written now if the last step has none.
    """
    final = folder / "final"
    failure: Exception | None = None
    try:
        _write(trainer, tokenizer, settings, folder, final)
    except Exception as error:  # safetensors and tokenizers define their own exceptions
        failure = error
    failures = gather_object([f"{final} could not be written ({first_line(failure)})" if failure else None])
    if problem := next((text for text in failures if text), None):
        trainer.stop_run(problem, cause=failure)
    return final


def _write(trainer: MetaGRPOTrainer, tokenizer: Any, settings: Settings, folder: Path, final: Path) -> None:
    accelerator = trainer.accelerator
    main = accelerator.is_main_process
    with marked(final, FINAL, trainer.state.global_step) if main else nullcontext():
        _write_model(trainer, settings, folder, final)
        if main:
            tokenizer.save_pretrained(final)


def _write_model(trainer: MetaGRPOTrainer, settings: Settings, folder: Path, final: Path) -> None:
    accelerator = trainer.accelerator
    if not isinstance(accelerator.unwrap_model(trainer.model), PeftModel):
        trainer.save_model(str(final))
    else:
        trainer.save_model(str(final / ADAPTER))
        if accelerator.is_main_process:
            base, start = settings.model.model_name_or_path, str(folder / "start")
            dtype = model_form(settings)["dtype"]
            with loading_alone():
                model = load_model(base, dtype=dtype, **model_source(settings)) if base else load_model(start)
            with torch.no_grad():
                merged: Any = PeftModel.from_pretrained(model, str(final / ADAPTER)).merge_and_unload()
            merged.save_pretrained(final)
