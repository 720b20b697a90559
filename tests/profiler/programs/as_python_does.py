"""What a script sees of itself."""

import pickle
import sys
from pathlib import Path

import __main__


class Mine:
    note: int = 1


print(sys.argv[1:], __name__, __file__, __spec__, sys.path[0])
print(Path(sys.argv[0]).resolve() == Path(__file__), __main__.sys is sys, Mine.__annotations__)
print(type(pickle.loads(pickle.dumps(Mine()))) is Mine)
sys.excepthook = lambda kind, error, trace: print("my hook:", error)
raise ValueError("told to the script's own hook")
