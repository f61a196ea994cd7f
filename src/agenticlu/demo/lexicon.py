"""The vocabulary of the synthetic world: names, values, relations and sentence templates.

All invented or everyday; every name is one word, so that it is one token of the tiny model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Mira Tomas Ada Bruno Clara Dorin Elsa Felix Greta Hugo Ilsa Jonas Karin Leon Marta Nils Olga
    Pavel Rosa Stefan Tilda Ulric Vera Walter Yara Zeno Anton Berta Caspar Doris Edgar Flora Georg
    Helga Ivan Judith Konrad Lydia Moritz Nora Oskar Petra Quentin Ruth Simon Thea Ursula Viktor
    Wanda Xaver Yvonne Zora Albin Bianca Cyril Dagmar Emil Frida Gustav Hanna Igor Jana Kaspar Lotte
    Magnus Nadia Otto Paula Rufus Selma Theo Valentin
""")
SURNAMES = _words("""
    Dallow Reed Quill Harrow Marsh Penrose Tindal Voss Ashby Brand Carver Drewe Ellery Farrow Gale
    Holt Ingram Jessop Kestrel Larkin Morrow Nettle Orwin Pike Quayle Rusk Sorrel Thorne Umber Vance
    Wick Yardley Zeller Alder Birch Croft Dunmore Easton Fenn Grove Hale Irwin Jarvis Keane Lowell
    Mercer Norris Oakes Pryor Ramsey Stroud Tully Upton Varley Weller Yates Abbot Bolton Corbin
    Dyer Elmore Frost Gibbs Hatcher Ives Jolley Kemp Lister Monk Nash Osborn Pratt
""")
TOWNS = _words("""
    Brellin Carrow Dunmark Eastvale Fallowby Grimsey Hollin Inverby Jarrow Kelmont Lindale Marrick
    Norwell Ostley Pellham Quorn Ravensby Selwick Tarring Ulverby Velden Wexley Yarrowby Zellby
    Ambley Bexford Corley Denholm Elmsby Farleigh Glenby Haddow
""")
TRADES = _words("""
    baker carpenter doctor farmer gardener judge joiner lawyer mason miller nurse painter potter
    sailor shepherd smith tailor weaver barber brewer butcher clerk cobbler cooper fisher glazier
    hunter jeweller librarian printer saddler tanner
""")
ANIMALS = _words("""
    cat dog goat horse parrot rabbit fox goose duck hen donkey pony pigeon falcon raven turtle
    hedgehog mouse ferret lizard snake sparrow swan toad lamb badger beaver canary peacock squirrel
""")
THINGS = _words("""
    lamp boat clock violin kettle mirror wagon ladder telescope drum flute compass lantern globe
    sword shield trumpet barrel basket hammer loom piano saddle sledge tent trunk vase whistle
    wheel bicycle
""")
GOODS = _words("""
    cheese honey silk salt wine glass pottery paper tea leather timber copper wool cider bread soap
""")
EVENTS: tuple[str, ...] = (
    "the Harvest Fair",
    "the Lantern Dance",
    "the River Race",
    "the Winter Derby",
    "the Spring Parade",
    "the Summer Contest",
    "the Kite Festival",
    "the Chess Cup",
    "the Singing Prize",
    "the Moonlight Run",
    "the Garden Show",
    "the Archery Match",
)
OPENINGS: tuple[str, ...] = (
    "These days",
    "As many know,",
    "It is said that",
    "By now",
    "According to the records,",
)
"""What a fact's sentence may begin with."""
SLOTS: dict[str, tuple[str, ...]] = {
    "way": ("road", "path", "lane", "track", "street"),
    "state": ("wet", "narrow", "quiet", "dusty", "muddy", "empty", "steep"),
    "weather": ("rain", "storm", "frost", "snow", "fog", "heat"),
    "mild": ("cold", "warm", "soft", "sharp", "gentle", "sudden"),
    "land": ("hills", "fields", "meadows", "woods", "moors", "valleys"),
    "day": ("morning", "evening", "afternoon", "night"),
    "place": ("market", "square", "harbour", "station", "library", "bridge", "mill", "chapel"),
    "mood": ("busy", "calm", "crowded", "silent", "bright", "gloomy"),
    "crop": ("apples", "pears", "plums", "beans", "onions", "cherries", "potatoes"),
    "season": ("spring", "summer", "autumn", "winter"),
    "time": ("noon", "dusk", "dawn", "midnight"),
    "stuff": ("smoke", "music", "dust", "laughter", "steam"),
    "count": ("two", "three", "four", "five", "seven", "nine"),
    "thing": ("benches", "windows", "gates", "carts", "roofs", "walls", "fences"),
    "age": ("old", "new", "painted", "broken", "wooden", "small"),
}
FILLER: tuple[str, ...] = (
    "the {way} was {state} after the {weather}.",
    "a {mild} wind came over the {land}.",
    "in the {day} the {place} was {mood}.",
    "the bells of the {place} rang at {time}.",
    "the {crop} were cheap that {season}.",
    "nobody could say how old the {place} was.",
    "the {weather} lasted for {count} days.",
    "at {time} the {place} was {mood} and the {way} was {state}.",
    "there was {stuff} in the air near the {place}.",
    "the {age} {thing} by the {place} were counted again.",
    "all {season} long the {land} looked {mood}.",
    "people still talk about the {weather} of that {season}.",
    "the {place} stayed shut for {count} weeks because of the {weather}.",
    "some of the {crop} were sold before {time}.",
)
"""Sentences about nothing in particular; they name nobody and no town."""
DISTRACTORS: tuple[str, ...] = (
    "{x} walked past the {place} in the {weather}.",
    "{x} and {y} met by chance near the {place}.",
    "{x} once spent the {season} in {town}.",
    "{x} bought some {crop} at {time}.",
    "the {age} {thing} were painted by {x}.",
    "{x} did not like the {weather}.",
    "{x} wrote a long letter to {y}.",
    "the {way} to {town} was {state} when {x} came home.",
)
"""Sentences that mention people without stating any fact that is asked for."""


@dataclass(frozen=True)
class Relation:
    """The wordings of one kind of fact; `{x}` is the key, `{v}` the value."""

    name: str
    fact: str
    """The sentence that states it; the value comes last, right after its key."""
    variant: str
    """Another sentence for it, met in documents only."""
    question: str
    values: tuple[str, ...] | None = None
    """All possible values, or None when the value is a person."""
    reference: str | None = None
    """A noun phrase for the value, by which a longer question continues; None ends a chain."""


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            name="home",
            fact="{x} lives in {v}.",
            variant="the home of {x} is in {v}.",
            question="Where does {x} live?",
            values=TOWNS,
            reference="the town where {x} lives",
        ),
        Relation(
            name="trade",
            fact="{x} works as a {v}.",
            variant="{x} earns a living as a {v}.",
            question="What does {x} work as?",
            values=TRADES,
        ),
        Relation(
            name="animal",
            fact="{x} keeps a {v}.",
            variant="{x} looks after a {v}.",
            question="What animal does {x} keep?",
            values=ANIMALS,
        ),
        Relation(
            name="thing",
            fact="{x} owns a {v}.",
            variant="{x} is the owner of a {v}.",
            question="What thing does {x} own?",
            values=THINGS,
        ),
        Relation(
            name="friend",
            fact="the friend of {x} is {v}.",
            variant="{x} has a friend called {v}.",
            question="Who is the friend of {x}?",
            reference="the friend of {x}",
        ),
        Relation(
            name="teacher",
            fact="the teacher of {x} is {v}.",
            variant="{x} was taught by {v}.",
            question="Who is the teacher of {x}?",
            reference="the teacher of {x}",
        ),
        Relation(
            name="mayor",
            fact="the mayor of {x} is {v}.",
            variant="{x} has a mayor called {v}.",
            question="Who is the mayor of {x}?",
            reference="the mayor of {x}",
        ),
        Relation(
            name="good",
            fact="{x} is known for its {v}.",
            variant="people come to {x} for its {v}.",
            question="What is {x} known for?",
            values=GOODS,
        ),
        Relation(
            name="winner",
            fact="the winner of {x} is {v}.",
            variant="{x} was won by {v}.",
            question="Who is the winner of {x}?",
            reference="the winner of {x}",
        ),
    )
}


def world_words() -> tuple[str, ...]:
    """Returns every word and punctuation mark that documents, questions and answers use, sorted."""
    sentences = [*OPENINGS, *FILLER, *DISTRACTORS, "a"]
    for relation in RELATIONS.values():
        sentences += [relation.fact, relation.variant, relation.question, relation.reference or ""]
    texts = [*FIRST_NAMES, *SURNAMES, *TOWNS, *TRADES, *ANIMALS, *THINGS, *GOODS, *EVENTS]
    sentences = [sentence for sentence in sentences if sentence]
    texts += [*sentences, *(s[0].upper() + s[1:] for s in (*sentences, *EVENTS))]
    texts += [word for words in SLOTS.values() for word in words]
    texts = [re.sub(r"\{\w+\}", "", text) for text in texts]
    return tuple(sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)}))
