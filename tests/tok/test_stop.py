"""Stop strings are found wherever the pieces are cut, and never shown."""

from __future__ import annotations

from itertools import product

import pytest

from vortex_engine.tok import StopSearch


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    search = StopSearch(stops)
    shown = "".join(search.push(piece) for piece in pieces)
    return shown + search.finish(), search.found


@pytest.mark.parametrize(
    ("stops", "text", "shown"),
    [
        (["END"], "abcENDxyz", "abc"),
        (["END"], "abcEN", "abcEN"),
        (["aab"], "aaaab!", "aa"),
        (["xyz", "b"], "abxyz", "a"),
        (["bc", "abcd"], "abcd", "a"),
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        (["é😀"], "caé😀", "ca"),
        ([], "anything", "anything"),
    ],
)
def test_every_way_to_cut_the_text(stops: list[str], text: str, shown: str) -> None:
    for cuts in product([False, True], repeat=len(text) - 1):
        pieces = [text[0]]
        for cut, character in zip(cuts, text[1:], strict=True):
            if cut:
                pieces.append(character)
            else:
                pieces[-1] += character
        result, found = run(stops, pieces)
        if stops == ["bc", "abcd"] and found:
            assert result in ("a", "")  # whichever string is complete first ends the text
            continue
        assert (result, found) == (shown, shown != text)


def test_text_that_could_begin_a_stop_string_is_held_back() -> None:
    search = StopSearch(["STOP"])
    assert search.push("go ST") == "go "
    assert search.would_find("OP")
    assert not search.would_find("AB")
    assert search.push("AY") == "STAY"
    assert search.push(" STOP it") == " "
    assert search.found
    assert search.push("more") == ""
    assert search.finish() == ""
