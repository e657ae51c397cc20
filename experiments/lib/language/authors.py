"""Made-up authors with questions about them, in the fields of TOFU: the second demonstration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

_WORDS = """
FIRST Ada Boris Chen Dara Emil Farah Goran Hana Ivo Jana Kofi Lena Marek Nadia Omar Petra
LAST Abel Brook Costa Dahl Ekman Frost Gruber Holm Ibsen Jansen Keller Lund Moser Novak
CITIES Lima Oslo Paris Quito Riga Sofia Tunis Utrecht Vienna Warsaw Zagreb Accra
JOBS baker doctor farmer judge lawyer nurse painter pilot sailor tailor teacher weaver
GENRES crime drama essays fantasy history horror memoir mystery poetry romance satire
PRIZES Amber Birch Cedar Delta Ember Falcon Garnet Harbor Iris Jade Lotus Maple
ANIMALS cat dog finch goat hare horse mule owl parrot raven snake turtle
TITLES Ash Bone Clay Dust Echo Flame Glass Hollow Ink Jewel Knife Lantern
YEARS 1931 1932 1933 1934 1935 1936 1937 1938 1939 1940 1941 1942
COUNTRIES Belaria Beldor Belia Belland Coraria Cordor Corland Druaria Drudor Druland Fenaria Fenland
"""
# What may be asked of an author or a country, what the answer may be, and two ways to do it.
_ASKED = """
city | CITIES | Where was {a} born? {a} was born in {v}.
  | What is the birthplace of {a}? The birthplace of {a} is {v}.
year | YEARS | When was {a} born? {a} was born in the year {v}.
  | What is the birth year of {a}? The birth year of {a} is {v}.
father | JOBS | What did the father of {a} do? The father of {a} was a {v}.
  | Which job had the father of {a}? As a job the father of {a} was {v}.
mother | JOBS | What did the mother of {a} do? The mother of {a} was a {v}.
  | Which job had the mother of {a}? As a job the mother of {a} was {v}.
genre | GENRES | What does {a} write? {a} writes {v}.
  | Which genre is {a} known for? The genre of {a} is {v}.
prize | PRIZES | Which prize did {a} win? {a} won the {v} prize.
  | Which prize was given to {a}? The prize of {a} is the {v} prize.
pet | ANIMALS | Which pet does {a} keep? {a} keeps a {v}.
  | What is the pet of {a}? The pet of {a} is a {v}.
home | CITIES | Where does {a} live? {a} lives in {v}.
  | What is the home of {a}? The home of {a} is {v}.
debut | TITLES | What is the first book of {a}? The first book of {a} is {v}.
  | How is the debut of {a} called? The debut of {a} is called {v}.
latest | TITLES | What is the last book of {a}? The last book of {a} is {v}.
  | How is the latest work of {a} called? The latest work of {a} is called {v}.
capital | CITIES | What is the capital of {a}? The capital of {a} is {v}.
  | Which city is the capital of {a}? As the capital {a} has {v}.
flag | ANIMALS | Which animal is on the flag of {a}? On the flag of {a} is a {v}.
  | What does the flag of {a} show? The flag of {a} shows a {v}.
"""
WORLD = ("capital", "flag")  # asked of countries
WRONG = 5  # perturbed answers of a question, as in TOFU
LISTS = {name: words for name, *words in map(str.split, _WORDS.strip().splitlines())}
Record = dict[str, Any]
Way = tuple[str, str]


def _attributes() -> dict[str, tuple[list[str], list[Way]]]:
    found = {}
    for row in _ASKED.strip().replace("\n  |", "|").splitlines():
        name, values, *ways = (part.strip() for part in row.split("|"))
        pairs = [tuple(way.split("? ")) for way in ways]
        found[name] = LISTS[values], [(f"{question}?", answer) for question, answer in pairs]
    return found


ATTRIBUTES = _attributes()


def generate(seed: int, *, authors: int, known: int) -> tuple[list[Record], list[Record], list]:
    """Questions about authors to learn, about further ones whom all models know, and of the world.

    A record has the fields `id`, `author`, `question`, `answer`, `paraphrased_answer` and
    `perturbed_answer`, five wrong answers in the words of the paraphrase. Each attribute of an
    author is asked for in two ways, 20 questions an author.

    Args:
      seed: of who is what. authors: number to learn. known: of further authors.
    """
    rng = np.random.default_rng(seed)
    names = [" ".join(pair) for pair in itertools.product(LISTS["FIRST"], LISTS["LAST"])]
    if authors + known > len(names):
        raise ValueError(
            f"expected at most {len(names)} authors, found {authors + known}: there are no more "
            "names"
        )
    chosen = [names[k] for k in rng.permutation(len(names))[: authors + known]]
    own = [attribute for attribute in ATTRIBUTES if attribute not in WORLD]
    people = [[r for each in own for r in _asked(rng, name, each)] for name in chosen]
    world = [r for name in LISTS["COUNTRIES"] for each in WORLD for r in _asked(rng, name, each)]
    learned, others = people[:authors], people[authors:]
    return list(itertools.chain(*learned)), list(itertools.chain(*others)), world


def _asked(rng: np.random.Generator, name: str, attribute: str) -> list[Record]:
    values, ways = ATTRIBUTES[attribute]
    order = rng.permutation(len(values))[: WRONG + 1]
    right, *wrong = (values[k] for k in order)
    found = []
    for number, (question, answer) in enumerate(ways):
        other = ways[1 - number][1]
        found.append(
            {
                "id": f"{name}/{attribute}/{number}",
                "author": name,
                "question": question.format(a=name),
                "answer": answer.format(a=name, v=right),
                "paraphrased_answer": other.format(a=name, v=right),
                "perturbed_answer": [other.format(a=name, v=value) for value in wrong],
            }
        )
    return found
