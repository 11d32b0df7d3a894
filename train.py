"""Train a masked diffusion language model: `python train.py --help`."""

from mdm_lightning.cli import train

if __name__ == "__main__":
    train()
