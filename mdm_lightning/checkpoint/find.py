"""Where `ckpt=` points, as far as names and folders tell, which takes no time to import."""

import re
from pathlib import Path

from mdm_lightning.errors import UserError

RUNS = Path("outputs")  # where runs lie unless run_dir= says otherwise
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
CONFIG = "config.yaml"
LAST_OF_A_FOLDER = (f"{CHECKPOINTS}/{LAST}", LAST)  # where a folder has its checkpoint

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def find_checkpoint(ckpt: str, runs: Path, *, option: str = "ckpt") -> Path:
    """The checkpoint file that ``ckpt=`` names: ``last`` (the newest run), a run folder, or a file.

    Args:
        ckpt: the name.
        runs: where runs lie.
        option: what was typed, for errors.

    Raises:
        UserError: there is none.
    """
    if ckpt == "last":
        found = [*runs.glob(f"*/{CHECKPOINTS}/{LAST}"), *runs.glob(f"*/*/{CHECKPOINTS}/{LAST}")]
        if not found:
            raise UserError(f"{option}=last: no run in {runs} has a checkpoint yet; train one, or give {option}=PATH")
        return max(found, key=lambda path: path.stat().st_mtime)
    path = Path(ckpt).expanduser()
    if path.is_dir():
        for candidate in LAST_OF_A_FOLDER:
            if (path / candidate).is_file():
                return path / candidate
        instead = "give a run folder or a .ckpt file"
        why = "that run has saved nothing yet" if (path / CONFIG).is_file() else instead
        raise UserError(f"{option}={ckpt} has no {CHECKPOINTS}/{LAST}: {why}")
    if not path.is_file():
        raise UserError(f"{option}={ckpt} does not exist: give a run folder, a .ckpt file, or `last`")
    return path


def names_published(ckpt: str) -> bool:
    """Whether ``ckpt=`` names a published model, rather than a run of this package or nothing at all."""
    path = Path(ckpt).expanduser()
    if path.is_dir():
        return not any((path / last).is_file() for last in LAST_OF_A_FOLDER) and (path / "config.json").is_file()
    if path.is_file():
        return path.suffix in _WEIGHTS or (path.suffix == ".ckpt" and _is_of_mdlm(path))
    return _HUB_NAME.fullmatch(ckpt) is not None and not ckpt.endswith(".ckpt")


def _is_of_mdlm(path: Path) -> bool:
    """Whether a file is a Lightning checkpoint of MDLM's or duo's code."""
    from mdm_lightning.denoiser.published.families.mdlm import PREFIX
    from mdm_lightning.denoiser.published.lightning_file import load_without_classes  # with torch, to look into a file

    try:
        content = load_without_classes(path)
    except Exception:  # a damaged or hostile file makes the unpickler raise anything
        return False
    names = content.get("state_dict", ()) if isinstance(content, dict) else ()
    return any(isinstance(name, str) and name.startswith(PREFIX) for name in names)


def refuse_missing_checkpoint(ckpt: str, *, option: str = "ckpt") -> None:
    """Refuses what ``ckpt=`` says where nothing can be there; whether it can be read is seen when it is.

    Raises:
        UserError: there is no such run, file or folder, and it is no name on the hub.
    """
    if not Path(ckpt).expanduser().is_file() and not names_published(ckpt):
        find_checkpoint(ckpt, RUNS, option=option)
