"""The Stack-RNN of Joulin and Mikolov 2015 ("Inferring algorithmic patterns with stack-augmented recurrent nets",
arXiv:1503.01007): a recurrent network with differentiable stacks of numbers, controlled by soft push and pop actions.

At each step, with hidden state h and a = softmax(A h) over push, pop and no-op, for each stack

    s_t[0] = a_push sigmoid(D h_t) + a_pop s_{t-1}[1] + a_noop s_{t-1}[0]
    s_t[i] = a_push s_{t-1}[i-1]   + a_pop s_{t-1}[i+1] + a_noop s_{t-1}[i]
    h_t    = tanh(U x_t + R h_{t-1} + P s_{t-1}[0..k-1])

No maintained library provides it. The no-op follows the paper's variant; the network reads the top k cells of each
stack.
"""

from __future__ import annotations

import torch
from torch import nn

ACTIONS = 3
"""Push, pop, no-op."""


class StackRNN(nn.Module):
    """One layer, with the interface of `torch.nn.RNN` with `batch_first=True`.

    Args:
        input_size: width of the inputs.
        hidden_size: width of the hidden state.
        stacks: number of stacks.
        cells: number of cells per stack; values pushed out at the bottom are lost.
        read: number of top cells that the next step reads.
    """

    def __init__(self, input_size: int, hidden_size: int, stacks: int = 4, cells: int = 64, read: int = 2) -> None:
        super().__init__()
        self.hidden_size, self.stacks, self.cells, self.read = hidden_size, stacks, cells, min(read, cells)
        self.enter = nn.Linear(input_size, hidden_size)
        self.recur = nn.Linear(hidden_size, hidden_size, bias=False)
        self.see = nn.Linear(stacks * self.read, hidden_size, bias=False)
        self.act = nn.Linear(hidden_size, stacks * ACTIONS)
        self.value = nn.Linear(hidden_size, stacks)

    def start(self, batch: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The initial state: hidden `(B, H)` and empty stacks `(B, stacks, cells)`."""
        return like.new_zeros(batch, self.hidden_size), like.new_zeros(batch, self.stacks, self.cells)

    def forward(
        self,
        inputs: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor] | None = None,
        lengths: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Outputs `(B, T, H)` and the state after the last step.

        Args:
            inputs: `(B, T, input_size)`.
            state: initial state; None: `start`.
            lengths: number of steps of each row, `(B,)`, after which its state stays fixed; None: all.
        """
        batch = inputs.shape[0]
        hidden, stack = self.start(batch, inputs) if state is None else state
        entered = self.enter(inputs)
        outputs = []
        for step, x in enumerate(entered.unbind(1)):
            before = hidden, stack
            seen = stack[:, :, : self.read].reshape(batch, -1)
            hidden = torch.tanh(x + self.recur(hidden) + self.see(seen))
            push, pop, keep = self.act(hidden).view(batch, self.stacks, ACTIONS).softmax(-1).unbind(-1)
            new = torch.sigmoid(self.value(hidden))[..., None]
            pushed = torch.cat([new, stack[:, :, :-1]], -1)
            popped = torch.cat([stack[:, :, 1:], torch.zeros_like(new)], -1)
            stack = push[..., None] * pushed + pop[..., None] * popped + keep[..., None] * stack
            if lengths is not None:
                on = (step < lengths)[:, None]
                hidden, stack = torch.where(on, hidden, before[0]), torch.where(on[..., None], stack, before[1])
            outputs.append(hidden)
        return torch.stack(outputs, 1), (hidden, stack)
