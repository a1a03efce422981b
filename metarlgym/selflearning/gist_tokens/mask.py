"""The attention mask of gist tokens: what comes after them sees what was before through them alone.

Mu et al. 2023 ("Learning to compress prompts with gist tokens", arXiv:2304.08467): a few extra tokens stand after a
prompt, and tokens after the last of them cannot see anything before the first. A model trained under this mask learns
to write into the gists what the rest needs. The two controls are those of the paper: no restriction, and no gist.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarlgym.datatypes import ConfigError

VIEWS = ("gist", "no_bottleneck", "no_gist")


def gist_mask(gists: Tensor, view: str = "gist", dtype: torch.dtype = torch.float32) -> Tensor:
    """A mask to be added to attention scores: 0 where a token is seen, the lowest number of `dtype` elsewhere.

    Rows without gists are plainly causal.

    Args:
        gists: bool, `(B, T)`: gist tokens, one run of them in a row.
        view: `gist`; `no_bottleneck`: plainly causal; `no_gist`: gists see nothing before them, and what comes after
            sees neither gists nor anything before.
        dtype: of the attention scores.

    Returns:
        `(B, 1, T, T)`: row, head (all alike), query, key.

    Raises:
        ConfigError: no such view.
    """
    if view not in VIEWS:
        raise ConfigError(f"view={view!r} is not known: use one of {', '.join(VIEWS)}.")
    length = gists.shape[1]
    place = torch.arange(length, device=gists.device)
    # Rows without gists: nothing comes before the first or after the last.
    first = torch.where(gists, place, length).amin(1)[:, None, None]
    last = torch.where(gists, place, -1).amax(1)[:, None, None]
    query, key = place[None, :, None], place[None, None, :]
    has = gists.any(1)[:, None, None]
    after = has & (query > last)
    seen = (key <= query).expand(len(gists), -1, -1)
    if view == "gist":
        seen = seen & ~(after & (key < first))
    elif view == "no_gist":
        # The last gist says the first symbol after it, so it must not see the chunk either.
        seen = seen & ~(after & (key <= last)) & ~(has & (query >= first) & (key < first))
    mask = torch.zeros(seen.shape, dtype=dtype, device=gists.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
