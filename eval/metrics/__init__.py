"""Scores and their intervals. Pure functions, each stated by its definition."""

from eval.metrics.choice import chosen_letter, multiple_choice
from eval.metrics.intervals import bootstrap_interval, bootstrap_scores, interval, wilson_interval
from eval.metrics.lists import legal_edit, list_in, loose_list_in
from eval.metrics.sentence import broken_rules, is_loosely_sentence_of, is_sentence_of
from eval.metrics.slots import f1, json_validity, matching, slot_counts, slot_f1, things_in
from eval.metrics.squares import is_latin_square, loose_square_in, solves_sudoku, square_in
from eval.metrics.text import anls, edit_distance, exact_match, normalise, relaxed_accuracy
from eval.metrics.vqa import processed, vqa_accuracy

__all__ = [
    "anls",
    "bootstrap_interval",
    "bootstrap_scores",
    "broken_rules",
    "chosen_letter",
    "edit_distance",
    "exact_match",
    "f1",
    "interval",
    "is_latin_square",
    "is_loosely_sentence_of",
    "is_sentence_of",
    "json_validity",
    "legal_edit",
    "list_in",
    "loose_list_in",
    "loose_square_in",
    "matching",
    "multiple_choice",
    "normalise",
    "processed",
    "relaxed_accuracy",
    "slot_counts",
    "slot_f1",
    "solves_sudoku",
    "square_in",
    "things_in",
    "vqa_accuracy",
    "wilson_interval",
]
