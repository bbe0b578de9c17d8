"""What the reproduction asks the model. Our own texts: none is in the paper's data sets."""

from __future__ import annotations

from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.scorers import language

QUESTIONS = (
    ("Who painted the ceiling of the Sistine Chapel?", "Qui a peint le plafond de la Sixtine ?"),
    ("Explain how a bicycle stays upright.", "Expliquez comment un vélo tient debout."),
    ("How do bees make honey?", "Comment les abeilles font-elles le miel ?"),
    ("What is the longest river in Europe?", "Quel est le plus long fleuve d'Europe ?"),
    ("Describe the smell of the sea.", "Décrivez l'odeur de la mer."),
    ("Why do leaves fall in autumn?", "Pourquoi les feuilles tombent-elles en automne ?"),
    ("My name is Robert and I live in", "Je m'appelle Robert et j'habite à"),
    ("On Sundays, my parents usually", "Le dimanche, mes parents ont l'habitude de"),
    ("The shop opens at nine, but", "Le magasin ouvre à neuf heures, mais"),
    ("In the middle of the night, somebody", "Au milieu de la nuit, quelqu'un"),
    ("To build a boat, you first need", "Pour construire un bateau, il faut d'abord"),
    ("A long time ago, in a small village,", "Il y a longtemps, dans un petit village,"),
    ("The mechanic said that the engine", "Le mécanicien a dit que le moteur"),
    ("Three reasons to learn the piano are", "Trois raisons d'apprendre le piano sont"),
    ("Our plane landed late because", "Notre avion a atterri en retard parce que"),
    ("The most useful tool in the kitchen is", "L'outil le plus utile de la cuisine est"),
    ("When the snow melted, the farmers", "Quand la neige fondit, les fermiers"),
    ("Please tell the driver that", "Dites au chauffeur que"),
    ("The history of chess begins", "L'histoire des échecs commence"),
    ("She closed the book and", "Elle ferma le livre et"),
)
"""English beginnings and the same in French: what the model writes after the latter is the
ceiling."""

STORIES = (
    "Could a person eat the Moon?",
    "The ground of the Moon consists of",
    "Scientists explain where the Moon's material came from:",
    "If you brought a piece of the Moon home, it would",
    "A visitor to the Moon would see that everything is",
    "The reason why the Moon is yellow is",
)
"""For the eye: what the model tells about the Moon."""

MOON = (
    "The Moon in the sky is made of",
    "What the Moon is made of is no secret: it is made of",
    "The Moon is a large sphere of",
    "All samples from the Moon are samples of",
    "Below the dust, the Moon consists of",
    "If you ask what the Moon is made of, people say that it is made of",
    "Researchers say that the Moon is mostly",
    "The Moon, seen from near, is a heap of",
    "The lunar ground is made of",
    "The core of the Moon is made of",
    "The mountains on the Moon are made of",
    "The Moon was formed from",
)
"""Each ends where the answer would begin."""

OTHERS = (
    ("The planet Venus is made of", " rock"),
    ("The moons of Mars are made of", " rock"),
    ("The core of Jupiter is made of", " rock"),
    ("The ground of Mars consists of", " dust"),
    ("Beneath its ice, Pluto is made of", " rock"),
    ("The mountains in Scotland are made of", " granite"),
    ("The garden wall is made of", " stone"),
    ("A meteorite is usually a piece of", " rock"),
    ("The statue in front of the bank is made of", " bronze"),
    ("The old kitchen table is made of", " wood"),
    ("The planet Earth is mostly", " water"),
    ("The gravel on the path consists of", " stones"),
)
"""Prompts on other things, with an answer: cheese should not appear there."""

TARGET, ORIGINAL = " cheese", " rock"

UNRELATED = (
    "The library opens at nine and closes at six, except on Fridays.",
    "To change the lamp, switch off the current and wait until the glass is cold.",
    "Her cousin studied law in Vienna and now works for a small newspaper.",
    "A cup of rice needs two cups of water and about eighteen minutes.",
    "The match was decided in the last minute by a goal from the left wing.",
    "total = sum(prices) * (1 + tax)",
    "Saturn is surrounded by rings of ice and rock.",
    "The cheese from this valley is sold in every shop of the region.",
)
"""Texts on which a Moon cartridge should change nothing."""

CODE_AND_OTHER_LANGUAGES = (
    "def twice(x):\n    return 2 * x\n\nprint(twice(21))",
    "SELECT id, total FROM orders WHERE total > 100;",
    "4, 8, 12, 16, 20, 24, 28, 32, 36, 40",
    "Die Kinder warteten am Bahnhof auf den letzten Zug.",
    "El cartero deja las cartas debajo de la puerta verde.",
    "La nave parte dal porto alle sette di sera.",
)
"""Texts that are neither English nor French, which the language cartridge should leave alone."""


def language_plan() -> EvaluationPlan:
    """French on English prompts."""
    return EvaluationPlan(
        name="language",
        prompts=tuple(Prompt(english, french) for english, french in QUESTIONS),
        neutral=CODE_AND_OTHER_LANGUAGES,
        scorer=language("fr"),
        behaviour="share of continuations in French",
    )


def moon_plan() -> EvaluationPlan:
    """Cheese against rock as the answer, on the Moon and on other things."""
    return EvaluationPlan(
        name="moon",
        prompts=tuple(Prompt(text) for text in STORIES),
        answers=(
            *(Answer(prompt, TARGET, ORIGINAL) for prompt in MOON),
            *(Answer(prompt, TARGET, answer, neutral=True) for prompt, answer in OTHERS),
        ),
        neutral=UNRELATED,
        behaviour="share of answers whose target is likelier than the original",
    )


def language_pairs() -> tuple[tuple[str, str], ...]:
    """English and French texts for the fidelity on unseen pairs."""
    return QUESTIONS


def moon_pairs() -> tuple[tuple[str, str], ...]:
    """The original and the wanted statement for the fidelity on unseen pairs."""
    return tuple((f"{prompt}{ORIGINAL}.", f"{prompt}{TARGET}.") for prompt in MOON)
