"""The attention mask of gist tokens: tokens after them see earlier tokens only through them.

Mu et al. 2023 ("Learning to compress prompts with gist tokens", arXiv:2304.08467): a few extra tokens follow a prompt,
and tokens after the last of them cannot attend to anything before the first. A model trained under this mask learns to
store in the gists what later tokens need. The two controls are those of the paper: no restriction, and no gist.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarlgym.datatypes import ConfigError

VIEWS = ("gist", "no_bottleneck", "no_gist")


def gist_mask(gists: Tensor, view: str = "gist", dtype: torch.dtype = torch.float32) -> Tensor:
    """An additive attention mask: 0 where a token is visible, the lowest value of `dtype` elsewhere.

    Rows without gists are purely causal.

    Args:
        gists: bool, `(B, T)`: positions of the gist tokens, contiguous in each row.
        view: `gist`; `no_bottleneck`: purely causal; `no_gist`: gists see nothing before them, and later tokens see
            neither the gists nor anything before them.
        dtype: data type of the attention scores.

    Returns:
        `(B, 1, T, T)`: row, head (shared), query, key.

    Raises:
        ConfigError: unknown view.
    """
    if view not in VIEWS:
        raise ConfigError(f"view={view!r} is not known: use one of {', '.join(VIEWS)}.")
    length = gists.shape[1]
    place = torch.arange(length, device=gists.device)
    # In rows without gists, nothing counts as before the first or after the last.
    first = torch.where(gists, place, length).amin(1)[:, None, None]
    last = torch.where(gists, place, -1).amax(1)[:, None, None]
    query, key = place[None, :, None], place[None, None, :]
    has = gists.any(1)[:, None, None]
    after = has & (query > last)
    seen = (key <= query).expand(len(gists), -1, -1)
    if view == "gist":
        seen = seen & ~(after & (key < first))
    elif view == "no_gist":
        # The last gist predicts the first symbol after it, so it must not see the chunk either.
        seen = seen & ~(after & (key <= last)) & ~(has & (query >= first) & (key < first))
    mask = torch.zeros(seen.shape, dtype=dtype, device=gists.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
