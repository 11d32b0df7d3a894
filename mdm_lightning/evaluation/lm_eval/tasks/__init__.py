"""Tasks of lm-eval under their own names, with the protocol of the stock ones and scores of our own.

The stock tasks of code download a metric from the hub and execute what was generated in the evaluating process; the
stock tasks of mathematics require a version of antlr with which Hydra does not run. Prompts, data sets and stop strings
are the same, which `tests/evaluation/test_harness_tasks.py` checks against the installed lm-eval.

Each folder holds the tasks of one family. The functions that they name are in the modules here.
"""
