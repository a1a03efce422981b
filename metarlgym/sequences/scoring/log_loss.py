"""Reading mode: the log-loss of a causal model on each symbol of a sequence that is given as the prompt.

No actions are taken and nothing is sampled, so it measures in-context learning with little variance. It works with any
model, in this process or behind a vLLM server. Losses are in nats per symbol and comparable with those of the exact
predictors on the same sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarlgym.datatypes import ConfigError, MetaRLGymError

if TYPE_CHECKING:
    import torch

LOGIT_BYTES = 2**28
"""Memory limit for the logits of one forward pass."""
SERVER_REQUESTS = 8
"""Maximum number of concurrent requests to a server."""
Progress = Callable[[int], None]
"""Callback with the number of newly finished sequences."""


class SymbolCodec:
    """Maps a source's symbols to a model's tokens.

    Args:
        tokenizer: encodes each symbol as a word with a leading space; None for a model whose token ids are the symbols
            themselves.
        words: the text of each symbol; None to write symbols as numbers.
        alphabet: symbols 0..alphabet-1.

    Each symbol is encoded separately, so that the tokenization of a sequence is unique and the loss of a symbol is the
    sum over its tokens. A beginning-of-sequence token is prepended if the tokenizer has one.
    """

    def __init__(self, tokenizer: Any | None, alphabet: int, words: Sequence[str] | None = None) -> None:
        self.start: list[int] = []
        """Tokens before the first symbol; if empty, the first symbol is not predicted."""
        self.tokens: list[list[int]] = [[symbol] for symbol in range(alphabet)]
        """Tokens of each symbol."""
        if tokenizer is None:
            return
        names = [str(symbol) for symbol in range(alphabet)] if words is None else list(words)

        def encode(text: str) -> list[int]:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if not ids or tokenizer.unk_token_id in ids:
                raise ConfigError(
                    f"model: its tokenizer does not know the word {text.strip()!r}, which stands for a symbol: use a "
                    "model whose tokenizer knows all text, or one made for this source."
                )
            return ids

        self.tokens = [encode(f" {word}") for word in names]
        if tokenizer.bos_token_id is not None:
            self.start = [tokenizer.bos_token_id]

    @property
    def single(self) -> np.ndarray | None:
        """The token of each symbol, `(alphabet,)`, if every symbol is a single token, else None."""
        if any(len(ids) != 1 for ids in self.tokens):
            return None
        return np.array([ids[0] for ids in self.tokens])

    def encode(self, sequence: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Token ids of a sequence, and the end of each symbol's tokens, `(T,)`."""
        ids = list(self.start)
        ends = []
        for symbol in sequence:
            ids += self.tokens[symbol]
            ends.append(len(ids))
        return ids, np.array(ends)

    def losses(self, token_losses: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Losses of the symbols, `(T,)`, from the losses of the tokens, the first of which is NaN."""
        starts = np.concatenate([[len(self.start)], ends[:-1]])
        found = np.array([token_losses[i:j].sum() for i, j in zip(starts, ends, strict=True)])
        if not self.start:
            found[0] = np.nan  # its first token was not predicted
        return found


def read_in_process(
    model: Any,
    codec: SymbolCodec,
    sequences: np.ndarray,
    labels: np.ndarray | None = None,
    renormalise: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Compute the losses of a model in this process.

    Args:
        model: a causal language model of transformers.
        codec: maps symbols to tokens.
        sequences: `(B, T)`.
        labels: `(B, T)`; if given, entry t is the loss of label t after symbols 0..t, unshifted. Requires that every
            symbol is a single token.
        renormalise: restrict the distribution to the alphabet's tokens and renormalize it. Requires that every symbol
            is a single token.
        progress: called with the number of newly finished sequences.

    Returns:
        `(B, T)` nats. Without labels, entry t is the loss of symbol t after symbols 0..t-1; entry 0 is NaN if there is
        no start token.

    Raises:
        ConfigError: the sequences do not fit the model's context or vocabulary, or a symbol has several tokens.
    """
    import torch

    single = codec.single
    if single is None and (labels is not None or renormalise):
        what = "labels" if labels is not None else "renormalise"
        raise ConfigError(f"{what}: this tokenizer writes some symbols as several tokens; leave {what} out.")
    config = model.config.get_text_config()
    _check_fit(codec, sequences, getattr(config, "max_position_embeddings", None), config.vocab_size)
    losses = np.full(sequences.shape, np.nan)
    tokens = max(len(codec.encode(row)[0]) for row in sequences[:1])
    size = max(1, LOGIT_BYTES // (4 * tokens * config.vocab_size))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for first in range(0, len(sequences), size):
            part = sequences[first : first + size]
            encoded = [codec.encode(row) for row in part]
            longest = max(len(ids) for ids, _ in encoded)
            batch = torch.zeros(len(part), longest, dtype=torch.long)
            mask = torch.zeros_like(batch)
            for row, (ids, _) in enumerate(encoded):
                batch[row, : len(ids)] = torch.tensor(ids)
                mask[row, : len(ids)] = 1
            batch, mask = batch.to(model.device), mask.to(model.device)
            # Padding is on the right, where a causal model does not see it; models without attention take no mask.
            extra = {} if bool(mask.all()) else {"attention_mask": mask}
            logits = model(input_ids=batch, **extra).logits.float()
            if renormalise:
                kept = torch.full((logits.shape[-1],), -torch.inf, device=logits.device)
                kept[torch.as_tensor(single, device=logits.device)] = 0.0
                logits = logits + kept
            logs = logits.log_softmax(-1)
            for row, (_, ends) in enumerate(encoded):
                if labels is None:
                    losses[first + row] = codec.losses(_next_losses(logs[row], batch[row])[: ends[-1]], ends)
                else:
                    wanted = torch.as_tensor(single[labels[first + row]], device=logs.device)  # type: ignore[index]
                    places = torch.as_tensor(ends - 1, device=logs.device)
                    losses[first + row] = -logs[row, places, wanted].double().cpu().numpy()
            if progress is not None:
                progress(len(part))
    model.train(was_training)
    return losses


def _next_losses(logs: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """Loss of each token, `(tokens,)`; NaN for the first."""
    found = -logs[:-1].gather(1, ids[1:, None])[:, 0].double().cpu().numpy()
    return np.concatenate([[np.nan], found])


class Served(NamedTuple):
    """What a server serves."""

    name: str
    root: str
    """Folder or hub id of the model, which also locates its tokenizer."""
    max_tokens: int | None


def describe_server(url: str) -> Served:
    """Ask a server with an OpenAI-compatible API what it serves.

    Raises:
        ConfigError: no server answers at this address.
    """
    import requests

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"server={url!r} has no scheme: write it as http://{url}.")
    try:
        with requests.Session() as session:
            session.trust_env = False  # ignore proxy settings
            answer = session.get(f"{url.rstrip('/')}/v1/models", timeout=30)
        model = answer.json()["data"][0]
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"server={url!r}: no model server answers there ({type(error).__name__}). Start one with `metarlgym serve "
            "--model ...`, or correct the address."
        ) from None
    return Served(model["id"], model.get("root") or model["id"], model.get("max_model_len"))


def read_from_server(
    url: str,
    served: Served,
    codec: SymbolCodec,
    sequences: np.ndarray,
    timeout: float = 300.0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Compute the losses of a model behind a vLLM server from its prompt log-probabilities.

    They refer to the model's unmodified distribution: vLLM applies neither temperature nor truncation to prompt
    log-probabilities. Only tokens of the prompt are scored, so labels are not supported.

    Args:
        url: address of the server, such as http://127.0.0.1:8000.
        served: the result of `describe_server`.
        codec: maps symbols to tokens.
        sequences: `(B, T)`.
        timeout: time limit of a request, in seconds.
        progress: called with the number of newly finished sequences.

    Returns:
        `(B, T)` nats, as `read_in_process` without labels.

    Raises:
        MetaRLGymError: the server cannot be reached or refuses a request.
    """
    _check_fit(codec, sequences, None if served.max_tokens is None else served.max_tokens - 1, None)
    import requests

    losses = np.full(sequences.shape, np.nan)

    def ask(row: int) -> int:
        ids, ends = codec.encode(sequences[row])
        body = {
            "model": served.name,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
            "ignore_eos": True,
        }
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(f"{url.rstrip('/')}/v1/completions", json=body, timeout=timeout)
        except requests.RequestException as error:
            raise MetaRLGymError(f"server={url!r} does not answer ({type(error).__name__}): is it running?") from None
        if answer.status_code != 200:
            raise MetaRLGymError(f"server={url!r} answers HTTP {answer.status_code}: {answer.text.strip()[:300]}")
        places = answer.json()["choices"][0].get("prompt_logprobs")
        if not places or len(places) != len(ids):
            raise MetaRLGymError(f"server={url!r} gives no prompt log-probabilities: use a vLLM server.")
        pairs = zip(places[1:], ids[1:], strict=True)
        token_losses = np.array([np.nan, *(-place[str(token)]["logprob"] for place, token in pairs)])
        losses[row] = codec.losses(token_losses, ends)
        return row

    with ThreadPoolExecutor(SERVER_REQUESTS) as pool:
        try:
            for _ in pool.map(ask, range(len(sequences))):
                if progress is not None:
                    progress(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return losses


def _check_fit(codec: SymbolCodec, sequences: np.ndarray, room: int | None, vocabulary: int | None) -> None:
    longest = max(len(codec.encode(row)[0]) for row in sequences)
    if room is not None and longest > room:
        raise ConfigError(
            f"length={sequences.shape[1]} makes {longest} tokens, more than the model's context of {room}: "
            "read shorter sequences."
        )
    most = max(max(ids) for ids in codec.tokens)
    if vocabulary is not None and most >= vocabulary:
        raise ConfigError(
            f"model: it knows token ids 0..{vocabulary - 1}, the source needs {most}: use a model made for this source."
        )
