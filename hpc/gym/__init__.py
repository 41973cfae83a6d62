"""A research environment in a workspace: shell sessions, files, a hidden evaluator.

The words (actions, their parameters, the evaluation rules) are ResearchGym's, the environment of
InnovatorBench (arXiv 2510.27598).
"""
