"""The ghost that judges chapter 8's allocators tells the shortest story of a mistake."""

import pytest

from kvlab.course.author import NotData
from kvlab.course.ch08 import _ghost, _sharing, q8_3_blocks, q8_4_sharing, q8_5_fork
from kvlab.course.ch08._ghost import Sound, told
from kvlab.course.sandbox.answer import AnswerRaised, LocalAnswer


def story(kind, world, trace, shown, n_blocks=4, size=2):
    def make():
        return world(LocalAnswer(kind).make(n_blocks, size), n_blocks, size)

    return told(make, trace, shown)


class NeverFrees(q8_3_blocks.Blocks):
    def end(self, chat):
        self.table.pop(chat, None)
        self.n.pop(chat, None)


class RefusesTheLast(q8_3_blocks.Blocks):
    def grow(self, chat, n):
        if chat in self.n and len(self.free) == 1 and self.n[chat] % self.size == 0:
            raise ValueError("one is kept")
        super().grow(chat, n)


class Breaks(q8_3_blocks.Blocks):
    def n_free(self):
        return 1 / 0


class FreesAtOnce(q8_4_sharing.SharingPool):
    def release(self, table):
        for block in table:
            self.known.pop(self.name.pop(block, None), None)
            if block not in self.free:
                self.free.append(block)


GROWS = [["grows", "A", 3], ["grows", "B", 1], ["grows", "A", 1], ["ends", "B"], ["grows", "C", 2]]


def test_a_right_allocator_has_no_story():
    assert story(q8_3_blocks.Blocks, q8_3_blocks._World, GROWS, q8_3_blocks.shown) == ""


def test_deeds_that_do_not_matter_are_left_out():
    found = story(NeverFrees, q8_3_blocks._World, GROWS, q8_3_blocks.shown)
    assert found == "B grows by 1; B ends: then n_free says 3; expected 4 free blocks."


def test_deeds_of_one_kind_are_made_one():
    slow = [["grows", "A", 1]] * 8
    found = story(RefusesTheLast, q8_3_blocks._World, slow, q8_3_blocks.shown)
    assert found.startswith("A grows by 6; A grows by 1: then grow raises ValueError")


def test_texts_are_cut_to_what_shows_it():
    trace = _sharing.come("aabbc", "aabba", "cc")
    trace[2:2] = [["leaves", "A"]]
    found = story(FreesAtOnce, _sharing.Sharing, trace, _sharing.shown, n_blocks=6)
    assert found.startswith("A comes with 'aa'; B comes with 'aab'; A leaves: then n_free says 5")


def test_an_error_of_the_answers_own_is_no_story():
    with pytest.raises(AnswerRaised, match="ZeroDivisionError"):
        story(Breaks, q8_3_blocks._World, GROWS, q8_3_blocks.shown)


def test_what_is_no_list_of_blocks_is_told_as_such():
    class Texts(q8_5_fork.ForkingPool):
        def append(self, table, n):
            return "0", None

    with pytest.raises(NotData, match="expected a list of int"):
        story(Texts, q8_5_fork._World, [["writes", "A", 1]], q8_5_fork.shown)


def test_only_an_empty_story_is_sound():
    assert Sound().fault("the ghost", "") is None
    assert Sound().fault("the ghost", "A comes: ...") == "the ghost: A comes: ..."
    assert _ghost.MOST_PLAYS > 50
