"""From a folder of documents and questions to a student, measured against its teacher.

The folder here is tiny, so that this takes seconds, and so is what the student can learn; with
documents of your own leave out the changes below, or say `dear distill FOLDER`.
"""

import tempfile
from pathlib import Path

from dear import Reranker, open_collection
from dear.recipes import load_distill_recipe
from dear.steps.distill import distill

ANIMALS = {"otter": "fish", "panda": "bamboo", "owl": "mice", "bee": "nectar", "cow": "grass"}
FACTS = ("The {} eats {}.", "A {} was seen near {}.", "Every {} sleeps after {}.")

folder = Path(tempfile.mkdtemp()) / "animals"
(folder / "corpus").mkdir(parents=True)
for animal, food in ANIMALS.items():
    for i, fact in enumerate(FACTS):
        (folder / "corpus" / f"{animal}-{i}.txt").write_text(fact.format(animal, food))
asked = [f"what does the {animal} eat" for animal in ANIMALS]
asked += [f"where was the {animal} seen" for animal in ANIMALS]
(folder / "queries.txt").write_text("\n".join(asked) + "\n")

recipe = load_distill_recipe(
    "laptop", ["student.model.layers=[0]", "student.groups.size=4", "test.queries=4"]
)
found = distill(open_collection(folder), recipe, folder.parent / "run")
for row in found.rows:
    print(f"{row.system}: {found.measure} {row.score:.3f}")
student = Reranker(folder.parent / "run" / "student")
print(student.rank("what does the owl eat", ["The owl eats mice.", "A bee was seen."]).scores)
