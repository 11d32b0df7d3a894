"""Numbers that a constructor refuses, and what it says of them."""

import math

import pytest

from mdm_lightning.arguments import BadArgument, finite
from mdm_lightning.training.optimizer import AdamW, Constant, Cosine, Linear

BAD = [
    (AdamW, {"lr": 0.0}, "lr must be positive and finite, got 0.0"),
    (AdamW, {"lr": math.nan}, "lr must be positive and finite, got nan"),
    (AdamW, {"betas": (0.9, 1.0)}, "betas must be two numbers in"),
    (AdamW, {"eps": 0.0}, "eps must be positive"),
    (AdamW, {"weight_decay": -1.0}, "weight_decay must be finite and not negative, got -1.0"),
    (AdamW, {"weight_decay": math.inf}, "weight_decay must be finite"),
    (Constant, {"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    (Cosine, {"total_steps": 0}, "total_steps must be at least 1, got 0"),
    (Cosine, {"total_steps": 9, "final": 1.5}, "final must be from 0 to 1"),
    (Linear, {"total_steps": 9, "decay": math.nan}, "decay must be from 0 to 1, got nan"),
]


@pytest.mark.parametrize(("build", "arguments", "words"), BAD)
def test_what_is_refused(build, arguments, words):
    with pytest.raises(BadArgument, match=words) as caught:
        build(**arguments)
    assert str(caught.value).startswith(build.__name__)
    assert caught.value.name in arguments


def test_finite():
    assert finite(0)
    assert finite(1.5, 1)
    assert not any(finite(value) for value in (math.inf, -math.inf, math.nan, None, "1"))
    assert not finite(0.5, 1)
