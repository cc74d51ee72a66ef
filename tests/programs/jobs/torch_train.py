"""PyTorch on the CPU: a small network is trained on one large tensor, with its activations and gradients."""

from __future__ import annotations

import torch

ROWS = 120_000
WIDTH = 16
HIDDEN = 512


def main() -> None:
    torch.manual_seed(10)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    points = torch.randn(ROWS, WIDTH)
    truth = torch.sin(points[:, :4].sum(dim=1, keepdim=True))
    network = torch.nn.Sequential(torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(points), truth)
        loss.backward()
        optimizer.step()
        print("step", step, loss.item().hex())
    print("weights", sum(parameter.double().sum().item() for parameter in network.parameters()).hex())


if __name__ == "__main__":
    main()
