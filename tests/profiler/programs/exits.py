"""Ends as it is told: by a number, a text, a signal, or past everything."""

import os
import signal
import sys

import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
print("trained", flush=True)
match sys.argv[1]:
    case "text":
        sys.exit("sorry: \N{LATIN SMALL LETTER E WITH ACUTE}")
    case "none":
        sys.exit()
    case "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    case "_exit":
        os._exit(5)
    case number:
        sys.exit(int(number))
