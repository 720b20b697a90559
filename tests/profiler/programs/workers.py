"""Batches made by worker processes, and processes of its own that train, forked and spawned."""
# modules: (root)

import multiprocessing

import torch
from torch.utils.data import DataLoader


def work(number: int) -> None:
    torch.nn.Linear(2, 1)(torch.ones(1, 2)).sum().backward()
    raise SystemExit(number)


def main() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in DataLoader(torch.ones(8, 4), batch_size=4, num_workers=2):
        model(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(target=work, args=(3,))
        process.start()
        process.join()
        print(method, process.exitcode)
    print(model.weight.sum().item())


if __name__ == "__main__":
    main()
