"""A masked diffusion model as lm-eval's (Gao et al., 2024): generation by the sampler, likelihood by the NELBO.

Only imported where lm-eval is installed; `benchmarks.py` is what asks for it.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from mdm_lightning.data.tokenizer.chat import render_chat
from mdm_lightning.data.tokenizer.context import encode_pairs, encode_prompt, split_spaces
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.completion import Completion, Prompt, complete
from mdm_lightning.evaluation.likelihood.conditional import Bound, Conditional, ConditionalLikelihood, windows
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Confidence
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

GENERATION_LENGTH = 256
"""Positions to generate where neither the user nor the task says how many."""


@dataclass
class Tally:
    """What the requests of one evaluation came to.

    Attributes:
        truncated: requests whose context lost its beginning, or whose text was cut into pieces, to fit the model.
        completions: everything that was generated.
        bounds: every likelihood.
    """

    truncated: int = 0
    completions: list[Completion] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)


class MaskedDiffusionLM(LM):
    """Answers lm-eval's requests, all of one kind at once, batched over requests of different lengths.

    Every process makes the same calls and receives the same answers; batches are shared out by ``subject.processes``.
    To lm-eval each process looks like a single one. The noise of a request depends on the seed and on its own text, so
    that schedules are compared under equal noise whichever instances are asked.

    Args:
        subject: the denoiser and its tokenizer.
        sampler: how answers are generated; what a task says of temperature and sampling is not used.
        likelihood: how texts are scored.
        generation_length: positions to generate; None for what the task says.
        max_length: most tokens of a request, if the model accepts as many.
        batch_size: prompts per batch.
        chat: contexts are rendered chats, in which special tokens are spelled out.
        add_bos: begin every context with the tokenizer's BOS.
        greedy_tasks: names of the tasks that want to know whether greedy generation would give the same text.
    """

    def __init__(
        self,
        subject: Subject,
        sampler: Sampler,
        likelihood: ConditionalLikelihood,
        *,
        generation_length: int | None = None,
        max_length: int = 4096,
        batch_size: int = 64,
        chat: bool = False,
        add_bos: bool = False,
        greedy_tasks: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.subject = subject
        self.sampler = sampler
        self.scorer = likelihood
        self.generation_length = generation_length
        self.batch_size = batch_size
        self.chat = chat
        self.add_bos = add_bos
        self.greedy_tasks = greedy_tasks
        self.length = min(subject.denoiser.length, max_length)
        self.tally = Tally()

    @property
    def tokenizer_name(self) -> str:
        return self.subject.tokenizer.fingerprint

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as text; without the generation prompt, up to the end of its last message, which is to go on."""
        text = render_chat(self.subject.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        content = chat_history[-1]["content"]
        end = text.rindex(content.strip()) + len(content.strip())  # templates may strip what they enclose
        space = content[len(content.rstrip()) :]
        return text[:end] + (space if text.startswith(space, end) else "")

    def _begin(self, requests: Sequence[Instance]) -> list[int]:
        """The keys of the requests, which must be the same on all processes.

        Raises:
            UserError: they are not: a task that draws its prompts at random has drawn others elsewhere.
        """
        keys = _keys(requests)
        if any(other != keys for other in self.subject.processes.exchange(keys)):
            raise UserError(
                "the processes have different prompts, because a task draws them at random: use one process"
            )
        return keys

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, cut at the first end-of-text token or stop string.

        Raises:
            UserError: the model's length leaves no room for an answer.
        """
        keys = self._begin(requests)
        prompts = []
        for request, key in zip(requests, keys, strict=True):
            context, options = request.arguments[:2]
            length = answer_length(options, self.generation_length)
            room = room_for_prompts(self.length, length)
            prompts.append(Prompt(self._fitting(self._encode(context), room), length, key))
        completions = complete(self.subject, self.sampler, prompts, self.batch_size)
        self.tally.completions += completions
        return [
            _cut(self._answer(prompt, completion, request.arguments[0]), _stops(request.arguments[1]))
            for prompt, completion, request in zip(prompts, completions, requests, strict=True)
        ]

    def _answer(self, prompt: Prompt, completion: Completion, context: str) -> str:
        """What was generated, without the spaces that are at the context's end already."""
        text = self.subject.tokenizer.answer(completion.tokens, after=prompt.tokens)
        spaces = split_spaces(self.subject.tokenizer, context)[1]
        return text[min(len(spaces), len(text) - len(text.lstrip(" "))) :]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Lower bounds on log-likelihoods in nats; for ``greedy_tasks`` also whether greedy generation, the most
        confident position first and one at a time, would give the same text."""
        keys = self._begin(requests)
        pairs = [self._encode_pair(*request.args) for request in requests]
        cut = [self._windows(context, target, key) for (context, target), key in zip(pairs, keys, strict=True)]
        asked = [request.task_name in self.greedy_tasks for request in requests]
        greedy = iter(self._are_greedy([parts for parts, ask in zip(cut, asked, strict=True) if ask]))
        same = [ask and next(greedy) for ask in asked]
        return [(-bound.nats, equal) for bound, equal in zip(self._score(cut), same, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Lower bounds on log-likelihoods of whole texts in nats."""
        keys = self._begin(requests)
        texts = [self.subject.tokenizer.encode(request.args[0]) for request in requests]
        cut = [self._windows(self._bos(), text, key) for text, key in zip(texts, keys, strict=True)]
        return [-bound.nats for bound in self._score(cut)]

    def _bos(self) -> list[int]:
        return [self.subject.tokenizer.bos_id] if self.add_bos else []

    def _encode(self, context: str) -> list[int]:
        return self._begun(encode_prompt(self.subject.tokenizer, context, special=self.chat))

    def _begun(self, ids: list[int]) -> list[int]:
        bos = self._bos()
        return ids if ids[: len(bos)] == bos else bos + ids

    def _encode_pair(self, context: str, target: str) -> tuple[list[int], list[int]]:
        """Tokens of a context and of the text that continues it."""
        [(before, after)] = encode_pairs(self.subject.tokenizer, [context], [target], special=self.chat)
        return self._begun(before), after

    def _fitting(self, tokens: list[int], room: int) -> list[int]:
        """The end of a context that is too long."""
        if len(tokens) <= room:
            return tokens
        self.tally.truncated += 1
        return tokens[len(tokens) - room :]

    def _windows(self, context: list[int], target: list[int], key: int) -> list[Conditional]:
        self.tally.truncated += len(context) + len(target) > self.length
        return windows(context, target, self.length, key) if target else []

    def _score(self, requests: Sequence[Sequence[Conditional]]) -> list[Bound]:
        """The bound of each request, of which each part has one."""
        parts = iter(self.scorer(self.subject, [part for request in requests for part in request]))
        bounds = []
        for request in requests:
            own = [next(parts) for _ in request]
            bounds.append(Bound(math.fsum(b.nats for b in own), math.hypot(*(b.stderr for b in own))))
        self.tally.bounds += bounds
        return bounds

    def _are_greedy(self, requests: Sequence[Sequence[Conditional]]) -> list[bool]:
        greedy = Sampler(LinearSchedule(), Expected(), Confidence(), TokenSampler(temperature=0))
        prompts = [Prompt(part.context, len(part.target), part.key) for request in requests for part in request]
        completions = iter(complete(self.subject, greedy, prompts, self.batch_size))
        return [all([next(completions).tokens == list(part.target) for part in request]) for request in requests]


def answer_length(options: Mapping[str, Any], wanted: int | None) -> int:
    """Positions to generate: what the user wants, else what the task's options say."""
    return wanted or int(options.get("max_gen_toks") or GENERATION_LENGTH)


def room_for_prompts(length: int, answer: int) -> int:
    """What an answer leaves of a model's length.

    Raises:
        UserError: nothing.
    """
    if length - answer < 1:
        raise UserError(
            f"evaluation.generation_length={answer} leaves no room for a prompt in the model's length {length}: set it "
            "to less"
        )
    return length - answer


def _keys(requests: Sequence[Instance]) -> list[int]:
    """A number for each request, made of its text and of how many equal ones came before it."""
    seen: Counter[str] = Counter()
    keys = []
    for request in requests:
        text = "\0".join([str(request.task_name), *(part for part in request.args if isinstance(part, str))])
        digest = blake2b(f"{seen[text]} {text}".encode(), digest_size=7).digest()
        seen[text] += 1
        keys.append(int.from_bytes(digest))
    return keys


def _stops(options: Mapping[str, Any]) -> list[str]:
    until = options.get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]


def _cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of some strings."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text
