"""How good a model is: perplexity of text, accuracy on multiple choice.

Here: measuring any transformers causal model, clustered or not. Not here: training, peers.
"""

from edkm.evaluate.choice import ChoiceResult, multiple_choice
from edkm.evaluate.perplexity import collate, perplexity
from edkm.quiet import quiet_imports

__all__ = ["ChoiceResult", "collate", "multiple_choice", "perplexity"]

quiet_imports()  # training and comparing import this package before transformers
