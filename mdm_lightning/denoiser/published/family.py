"""What a family of published models is: how its configuration and its names of tensors translate."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

NamedTensors = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Unstated:
    """What the user knows of a published model and its files do not say.

    Args:
        mask_id: which id is MASK.
        shifted: whether output i - 1 predicts position i.
        block_size: positions per block of block-causal attention.
        autoregressive: whether it is an autoregressive model, of which a masked diffusion model is to be made.

    Raises:
        ValueError: a number is out of range.
    """

    mask_id: int | None = None
    shifted: bool | None = None
    block_size: int | None = None
    autoregressive: bool | None = None

    def __post_init__(self) -> None:
        check_numbers(self, mask_id=0, block_size=1)
        for name in ("shifted", "autoregressive"):
            check(self, name, getattr(self, name) in (None, True, False), "true or false")


HARMLESS = frozenset(
    {
        "_attn_implementation", "_name_or_path", "architectures", "attn_implementation", "auto_map", "bos_token_id",
        "dtype", "eos_token_id", "id2label", "initializer_range", "label2id", "model_type", "pad_token_id",
        "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Keys of a configuration that say nothing of what its model computes: of files, tokens, precision, first values."""

NOTHING = Unstated()
"""The files say everything."""


class Family(ABC):
    """Models that are published in one format.

    The two state-dict adapters are pure functions over mappings of names to tensors, and yield pairs: ``dict(...)`` of
    one is a state dict, and stored weights of which the mapping reads one tensor at a time are never held whole. What
    an adapter has no name for is left out; loading lists it.
    """

    name: ClassVar[str]
    denoiser: ClassVar[type[Denoiser]]
    size: ClassVar[str]
    """The choice of ``model=`` that has the published sizes."""
    usual_tokenizer: ClassVar[str | None] = None
    """On the hub, for models that bring none along."""
    takes_the_rest: ClassVar[bool] = False
    """Whether it is one whose models say nothing of it, and it takes what no other family claims."""
    keys: ClassVar[Mapping[str, str]] = {"mask_id": "mask_token_id"}
    """Where a configuration says what others leave unstated."""

    @abstractmethod
    def matches(self, weights: Weights) -> bool:
        """Whether the weights are of this family, by their names and their configuration."""

    @abstractmethod
    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        """Arguments of ``denoiser`` for these weights.

        Args:
            vocab_size: number of ids that the tokenizer has; None if that is not known.

        Raises:
            UserError: the configuration lacks something, asks for something that is not supported, or does not go with
                the vocabulary.
        """

    @abstractmethod
    def to_ours(self, stored: Mapping[str, Tensor]) -> NamedTensors:
        """The denoiser's parameters and buffers, from stored tensors."""

    @abstractmethod
    def to_theirs(self, state: Mapping[str, Tensor]) -> NamedTensors:
        """The tensors to store, from the denoiser's parameters and buffers."""

    def stated(self, unstated: Unstated) -> dict[str, Any]:
        """What its own files did not say of a model, as a configuration of the family says it.

        Raises:
            UserError: it has no word for it.
        """
        if unstated.block_size is not None and "block_size" not in self.keys:
            raise UserError(
                f"{self.name}'s format knows full attention only: a model that reads in blocks cannot be exported"
            )
        values = {key: getattr(unstated, option) for option, key in self.keys.items()}
        return {key: value for key, value in values.items() if value is not None}

    def copies(self, arguments: Mapping[str, Any]) -> Mapping[str, str]:
        """Stored names that may be there as well, with the stored tensor that they must equal."""
        return {}


class PublishedConfig:
    """A family's configuration as it is read: it says what it lacks, and refuses what is not supported.

    Args:
        weights: whose configuration it is, for messages.
        values: what it says.
    """

    def __init__(self, weights: Weights, values: Mapping[str, Any]) -> None:
        self.origin = weights.origin
        self.values = values
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UserError(
                f"the configuration of {self.origin} ({CONFIG}) does not say {key}: it is incomplete, or of another "
                "kind of model"
            )
        return value

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return self.values.get(key, default)

    def either(self, key: str, option: str, known: T | None, default: T | None = None, otherwise: str = "") -> T:
        """What the configuration says under a key, or what the user knows.

        Args:
            option: of ``Unstated``.
            known: its value.
            default: for what is usual in the family.
            otherwise: what else the user can do where nobody says it.

        Raises:
            UserError: nobody says it, or the two contradict each other.
        """
        said = self.get(key)
        if said is not None and known is not None and said != known:
            raise UserError(f"{self.origin} has {key}={said} in {CONFIG}: leave published.{option}={known} out")
        for value in (said, known, default):
            if value is not None:
                return value
        raise UserError(
            f"the configuration of {self.origin} ({CONFIG}) does not say {key}: set published.{option}=, from the "
            f"model's card{otherwise}"
        )

    def refuse_hints(self, unstated: Unstated, *unless: str) -> None:
        """Refuses what the user says of the model and the family knows already.

        Args:
            unless: what it does not know.

        Raises:
            UserError: naming the first.
        """
        for option in fields(unstated):
            if option.name not in unless and getattr(unstated, option.name) is not None:
                raise UserError(
                    f"published.{option.name}= is not for {self.origin}, of which it is known: leave it out"
                )

    def refuse_other_than(self, **supported: Any) -> None:
        """Refuses settings that ask for something else than the denoiser implements; null and false ask for the same.

        Raises:
            UserError: naming the first.
        """
        for key, value in supported.items():
            said = self.get(key, value)
            if said != value and (said or value):
                raise UserError(f"{self.origin} has {key}={self.values[key]} in {CONFIG}: only {value} is supported")

    def warn_of_unread(self, harmless: Collection[str]) -> None:
        """Names, in a warning, the settings that were not read, are not known to be harmless, and ask for something.

        Args:
            harmless: beside ``HARMLESS``, keys that change nothing in what the family's models compute.
        """
        unread = sorted(self.values.keys() - self.read - HARMLESS - set(harmless))
        asking = [key for key in unread if self.values[key] not in (None, False, [], {})]
        if asking:
            log.warning(
                "%s says %s, which is not known here: if that changes what the model computes, its numbers are wrong",
                f"{CONFIG} of {self.origin}",
                ", ".join(f"{key}={str(self.values[key])[:40]}" for key in asking),
            )

    def fitting(self, vocab_size: int | None, rows: int) -> int:
        """The tokenizer's number of ids, by default as many as there are rows.

        Raises:
            UserError: there are not enough rows for it.
        """
        if vocab_size is not None and vocab_size > rows:
            raise UserError(
                f"the tokenizer has {vocab_size} ids, but {self.origin} only {rows} rows: use the model's own tokenizer"
            )
        return rows if vocab_size is None else vocab_size
