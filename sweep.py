"""Sweep mask schedules against step budgets: `python sweep.py ckpt=last`; `python sweep.py --help`."""

from mdm_lightning.cli import sweep

if __name__ == "__main__":
    sweep()
