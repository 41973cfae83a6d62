"""Text to and from Slack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.router.annotators.slack_text import cut, cut_middle, escape, shown, typed


@pytest.mark.parametrize(
    ("slack", "person"),
    [
        ("set anneal to 450C", "set anneal to 450C"),
        ("a &lt; b &amp;&amp; c &gt; d", "a < b && c > d"),
        ("&amp;lt;", "&lt;"),
        ("see <https://example.org/x>", "see https://example.org/x"),
        ("see <http://example.org|example.org>", "see example.org"),
        ("see <https://example.org|the docs>", "see the docs (https://example.org)"),
        ("<mailto:a@b.org|a@b.org>", "a@b.org"),
        ("ask <@U012ABC> in <#C012|alerts>", "ask @U012ABC in #alerts"),
        ("<!here> <!subteam^S012|@experts> <!subteam^S012>", "@here @experts @S012"),
        ("  spaces  ", "spaces"),
    ],
)
def test_what_a_person_typed(slack: str, person: str) -> None:
    assert typed(slack) == person


@given(st.text())
def test_escaping_is_undone_by_typed(text: str) -> None:
    assert typed(escape(text)) == text.strip()
    assert "<" not in escape(text)


@given(st.text(alphabet=st.sampled_from("ab<>&\n "), max_size=200), st.integers(1, 100))
def test_cut_text_fits_once_escaped(text: str, limit: int) -> None:
    result = cut(text, limit)
    assert len(escape(result)) <= limit
    assert result == text or result.endswith("…")
    if len(escape(text)) <= limit:
        assert result == text


@given(st.text(max_size=300), st.integers(10, 100))
def test_the_middle_is_cut_out(text: str, limit: int) -> None:
    result = cut_middle(text, limit)
    assert len(result) <= limit
    assert result[-3:] == text[-3:]


@given(st.text())
def test_nothing_invisible_is_shown(text: str) -> None:
    result = shown(text)
    assert not any(0x202A <= ord(c) <= 0x202E or 0x200B <= ord(c) <= 0x200F for c in result)
    assert all(c in "\n\t" or c.isprintable() or not ("\x00" <= c <= "\x1f" or "\x7f" <= c <= "\x9f") for c in result)
    result.encode()  # no half surrogate pair is left


def test_secrets_are_taken_out_before_text_is_cut() -> None:
    secret = "hf_" + "a" * 40
    assert "hf_" not in cut(shown(f"x {secret}"), 20)
