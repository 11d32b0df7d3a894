"""Files of this package are valid JSON, and what is written is read back."""

import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdm_lightning.files import from_json, to_json

CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key != "float"), inner),
)


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(content=CONTENT)
@pytest.mark.parametrize("indent", [1, None])
def test_what_is_written_is_read_back(content, indent):
    text = to_json(content, indent=indent)
    assert same(from_json(text), content)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert indent is not None or text.count("\n") == 1


def test_what_json_has_no_word_for_is_refused_unless_there_is_a_default():
    with pytest.raises(TypeError):
        to_json({"a": {1}})
    assert from_json(to_json({"a": {1}, "b": math.inf}, default=str)) == {"a": "{1}", "b": math.inf}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN,"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(text)
