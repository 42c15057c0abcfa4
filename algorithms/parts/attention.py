"""Networks that attend to a support of which some points are there.

Letters: N points, Q queries, X inputs, Y targets, W width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from algorithms.parts.sets import mean, mlp

HEADS = 8  # of the attentive neural process's code


class Attentive(nn.Module):
    """Points, queries [Q, X] and z [W] -> [Q, 2 Y]: the deterministic path and the decoder of an ANP."""

    def __init__(self, x: int, y: int, width: int) -> None:
        """The same two layers make queries and keys of inputs."""
        super().__init__()
        self.encoder, self.embed = mlp(x + y, width, width, width, width), mlp(x, width, width)
        self.attention = nn.MultiheadAttention(width, HEADS, bias=False, batch_first=True)
        self.decoder = mlp(2 * width + x, width, width, 2 * y)

    def forward(self, x: Tensor, y: Tensor, there: Tensor, query: Tensor, z: Tensor) -> Tensor:
        """Nothing is found, 0, where no point is there."""
        some = there.any()
        unseen = (~there & some).unsqueeze(0)  # a softmax over nothing would not be a number
        asked, keys, encoded = (
            part.unsqueeze(0) for part in (self.embed(query), self.embed(x), self.encoder(torch.cat([x, y], -1)))
        )
        found = self.attention(asked, keys, encoded, key_padding_mask=unseen, need_weights=False)[0].squeeze(0) * some
        output: Tensor = self.decoder(torch.cat([found, z.expand(len(query), -1), query], -1))
        return output


class Latent(nn.Module):
    """Points -> [2 W]: the latent path's encoder of an ANP, whose mean over points decides."""

    def __init__(self, x: int, y: int, width: int) -> None:
        """Layers before and after the mean."""
        super().__init__()
        self.encoder, self.code = mlp(x + y, width, width, width, width), mlp(width, width, 2 * width)

    def forward(self, x: Tensor, y: Tensor, there: Tensor) -> Tensor:
        """The mean is 0 where no point is there."""
        output: Tensor = self.code(mean(self.encoder(torch.cat([x, y], -1)), there))
        return output


class Reader(nn.Module):
    """Points and queries [Q, X] -> [Q, outputs], by blocks of four heads that normalise after each branch."""

    def __init__(self, x: int, y: int, width: int, layers: int, outputs: int) -> None:
        """Tokens that are alike look at each other at first: classes would stay at chance for long otherwise."""
        super().__init__()
        self.point, self.label = nn.Linear(x, width), nn.Linear(y, width)
        blocks = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, functional.gelu, batch_first=True)
            for _ in range(layers)
        ]
        for block in blocks:
            queries, keys, _ = block.self_attn.in_proj_weight.data.chunk(3)
            keys.copy_(queries)
        self.blocks = nn.ModuleList(blocks)
        self.answer = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))

    def forward(self, x: Tensor, y: Tensor, there: Tensor, query: Tensor) -> Tensor:
        """Tokens, sums of what input and target are embedded to, see the points that are there and themselves."""
        tokens = torch.cat([self.point(x) + self.label(y), self.point(query)])
        itself = torch.eye(len(tokens), dtype=torch.bool, device=x.device)
        hidden = ~(functional.pad(there, (0, len(query))) | itself)
        for block in self.blocks:
            tokens = block(tokens, hidden)
        answers: Tensor = self.answer(tokens[len(x) :])
        return answers
