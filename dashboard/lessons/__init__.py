"""Small experiments with real autograd, run on the spot; their figures are the lessons' figures.

Here: code that runs and what came out. Not here: pages, charts, words.
"""
