"""`python -m mdm_lightning train ...`, and so on."""

import sys

from mdm_lightning import cli

COMMANDS = {"train": cli.train, "evaluate": cli.evaluate, "sweep": cli.sweep}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"usage: python -m mdm_lightning {{{','.join(COMMANDS)}}} [group=choice ...] [key=value ...]")
    del sys.argv[1]
    COMMANDS[name]()
