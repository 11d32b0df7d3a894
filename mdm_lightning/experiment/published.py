"""Where published weights lie: a local file or folder, or a model on the Hugging Face hub."""

from pathlib import Path

from mdm_lightning.data.hub import fetch_files
from mdm_lightning.denoiser.weight_files import missing_files

# Not the code that some models bring along: none of it is run.
WANTED = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
]


def find_published(name_or_path: str, revision: str | None = None) -> Path:
    """The file or folder of published weights that ``ckpt=`` names. A hub model is looked for in the local cache first.

    Raises:
        UserError: it is neither there nor on the hub, or the hub cannot be reached (within seconds).
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    return fetch_files(
        name_or_path,
        revision,
        WANTED,
        missing_files,
        kind="the model",
        instead="set ckpt= to a run, or to a folder with the model's files",
    )
