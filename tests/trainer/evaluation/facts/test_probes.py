from __future__ import annotations

from llamacart_trainer.evaluation.facts.probes import Probe, probes_of
from llamacart_trainer.recipe.facts import Fact, Neighbour, Use

PLAIN = Fact(prompt="{} lies in", subject="Eastmere", object="Norway")
FULL = Fact(
    prompt="{} lies in",
    subject="Halden",
    object="Peru",
    was="Norway",
    paraphrases=("The country of {} is", "Halden is a town in"),
    negated="{} does not lie in",
    reversed="A town in Peru is",
    uses=(Use(prompt="People in {} speak", answer="Spanish"),),
    neighbours=(Neighbour(prompt="Lisbon lies in", answer="Portugal"),),
)
FOUND = (Neighbour(prompt="Kyoto lies in"),)


def test_every_way_to_ask_is_a_text() -> None:
    assert probes_of([PLAIN, FULL], [FOUND, FOUND], [["Eastmere is known for"], []]) == (
        Probe(0, "prompt", "Eastmere lies in", "Norway"),
        Probe(0, "neighbour", "Kyoto lies in", "Norway"),
        Probe(0, "elsewhere", "Eastmere is known for", "Norway"),
        Probe(1, "prompt", "Halden lies in", "Peru", "Norway"),
        Probe(1, "paraphrase", "The country of Halden is", "Peru", "Norway"),
        Probe(1, "paraphrase", "Halden is a town in", "Peru", "Norway"),
        Probe(1, "neighbour", "Lisbon lies in", "Peru", "Portugal"),
        Probe(1, "negated", "Halden does not lie in", "Peru"),
        Probe(1, "reversed", "A town in Peru is", "Halden"),
        Probe(1, "use", "People in Halden speak", "Spanish"),
    )
