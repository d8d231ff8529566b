"""Names: what datasets are called in SQL: `<component>.<name>`, as `MTM1M3.forceActuatorData`.

SQL does not tell upper from lower case, Kafka does, and 24 pairs of topics differ in nothing else. Of datasets with one
name, the first (in the order of their texts) has it, the second is called `<name>_2`, and so on. Whoever writes the
second's name as Kafka has it is told, not given the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from efd_pipelines.errors import UsageError
from efd_pipelines.topics.names import Dataset


class AmbiguousName(UsageError):
    """A name that SQL cannot tell from another."""


@dataclass(frozen=True, slots=True)
class Named:
    """A dataset and its name: schema and view."""

    dataset: Dataset
    schema: str
    view: str

    @property
    def text(self) -> str:
        """As it is written."""
        return ".".join(part if part.isidentifier() else f'"{part}"' for part in (self.schema, self.view))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all datasets."""

    by_name: Mapping[tuple[str, str], Named]
    by_text: Mapping[str, Named]

    @classmethod
    def of(cls, datasets: Iterable[Dataset]) -> Names:
        by_name: dict[tuple[str, str], Named] = {}
        everything = sorted(set(datasets))
        taken = {_folded(one.component, one.name) for one in everything}
        for dataset in everything:
            view, number = dataset.name, 1
            while _folded(dataset.component, view) in by_name or (
                number > 1 and _folded(dataset.component, view) in taken
            ):
                number += 1
                view = f"{dataset.name}_{number}"
            by_name[_folded(dataset.component, view)] = Named(dataset, dataset.component, view)
        return cls(by_name, {one.dataset.text: one for one in by_name.values()})

    def find(self, schema: str, view: str) -> Named | None:
        """The dataset of a name as SQL reads it.

        Raises:
            AmbiguousName: it is how Kafka writes another dataset.
        """
        found = self.by_name.get(_folded(schema, view))
        if found is None or found.view == view or found.view != found.dataset.name:
            return found
        for other in self.by_name.values():
            if other is not found and (other.dataset.component, other.dataset.name) == (schema, view):
                raise AmbiguousName(
                    f"{other.dataset} differs from {found.dataset} only in case, which SQL does not tell",
                    remedy=f"Write {other.text} for it, or {found.text} for the other.",
                )
        return found


def _folded(schema: str, view: str) -> tuple[str, str]:
    return schema.lower(), view.lower()
