"""The commands as programs: `mdm-train`, `mdm-evaluate`, `mdm-sweep`; `python train.py` and so on in a clone;
`python -m mdm_lightning train` anywhere.

What takes time to import is imported when a command is about to run: help and completion do without, and so does what
is mistyped (`commands/options/unread.py`).
"""

import sys
from pathlib import Path
from typing import Any

from mdm_lightning.stopping import prepare_to_stop

_PACKAGED = Path(__file__).parent / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "conf"
"""The folder of the configuration: inside the package where it is installed, beside it in a clone."""

_HELP = {"--help", "-h"}

# What Hydra answers by itself, from the files of the configuration alone.
_ANSWERED_BY_HYDRA = {"--hydra-help", "--shell-completion", "-sc"}


def train() -> None:
    """Trains a model: `mdm-train --help`."""
    prepare_to_stop()
    if _asks("train"):
        return
    import hydra

    from mdm_lightning.commands.command import run_command, single_job
    from mdm_lightning.commands.options.resumed_line import continue_in_place

    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(single_job(_train))

    def resume_or_start() -> None:
        sys.argv[1:] = continue_in_place(sys.argv[1:])
        main()

    run_command(resume_or_start, CONF, "train")


def _train(config: Any) -> float | None:
    from mdm_lightning.commands.train import train as job

    return job(config)


def evaluate() -> None:
    """Evaluates a checkpoint: `mdm-evaluate --help`."""
    prepare_to_stop()
    if _asks("evaluate"):
        return
    import hydra

    from mdm_lightning.commands.command import run_command, single_job

    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")(single_job(_evaluate))
    run_command(main, CONF, "evaluate")


def _evaluate(config: Any) -> None:
    from mdm_lightning.commands.evaluate import evaluate as job

    job(config)


def sweep() -> None:
    """Sweeps schedules against step budgets: `mdm-sweep --help`."""
    prepare_to_stop()
    if _asks("sweep"):
        return
    from mdm_lightning.commands.command import run_command
    from mdm_lightning.commands.options.ahead import check_ahead

    def check_and_sweep() -> None:
        check_ahead(sys.argv[1:], CONF, "sweep")
        from mdm_lightning.commands.sweep.sweep import sweep as job

        job(sys.argv[1:], CONF)

    run_command(check_and_sweep, CONF, "sweep")


def _asks(name: str) -> bool:
    """Answers a command line that asks for help or completion; whether it did."""
    arguments = sys.argv[1:]
    if _HELP.intersection(arguments):
        from mdm_lightning.commands.program import typed
        from mdm_lightning.help import explain

        print(explain(typed(name), name, CONF, [argument for argument in arguments if not argument.startswith("-")]))
        return True
    if not _ANSWERED_BY_HYDRA.intersection(arguments):
        return False
    import hydra

    def nothing(config: Any) -> None:
        """Hydra answers before it would come to the job."""

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(nothing)()
    return True
