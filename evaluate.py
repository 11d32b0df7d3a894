"""Evaluate a checkpoint: `python evaluate.py ckpt=last`; `python evaluate.py --help`."""

from mdm_lightning.cli import evaluate

if __name__ == "__main__":
    evaluate()
