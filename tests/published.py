"""A module with the children, the function and the arguments of the published one, as a stranger's code has it."""

import torch
from torch import nn

from oracle import CONV, NORM


class GCN(nn.Module):
    def __init__(self, states, nodes):
        super().__init__()
        self.conv1 = nn.Conv1d(nodes, nodes, kernel_size=1)
        self.conv2 = nn.Conv1d(states, states, kernel_size=1, bias=False)

    def forward(self, v):
        mixed = self.conv1(v.transpose(1, 2)).transpose(1, 2) + v
        return self.conv2(mixed.clamp(min=0))


class Published(nn.Module):
    def __init__(self, channels, middle, normalize=False, axes=2, wrong=1.0):
        super().__init__()
        self.normalize, self.wrong = normalize, wrong
        self.conv_state = CONV[axes](channels, 2 * middle, kernel_size=1)
        self.conv_proj = CONV[axes](channels, middle, kernel_size=1)
        self.gcn = GCN(2 * middle, middle)
        self.conv_extend = CONV[axes](2 * middle, channels, kernel_size=1, bias=False)
        self.blocker = NORM[axes](channels, eps=1e-4)
        nn.init.zeros_(self.blocker.weight)

    def forward(self, x):
        state, project = self.conv_state(x).flatten(2), self.conv_proj(x).flatten(2)
        pooled = torch.matmul(state, project.transpose(1, 2)) * self.wrong
        if self.normalize:
            pooled = pooled / state.shape[2]
        back = torch.matmul(self.gcn(pooled), project)
        return x + self.blocker(self.conv_extend(back.view(x.shape[0], -1, *x.shape[2:])))
