"""A question to vector stores: both paths, the reranker within its time, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.errors import InvalidRequest, Unavailable
from rag.rank_passages import Passage
from rag.reranking import Pace
from rag.retrieve import Retriever, Wanted
from rag.store.base import DocumentStore, open_store
from rag.store.errors import NotThere
from rag.types import Comparison, Embedder
from tests.rag.ingest_writer import Threads
from tests.rag.stores import OTHER, SMALL, put, vector, work

if TYPE_CHECKING:
    from rag.store.engine import Vectors

pytestmark = pytest.mark.anyio

PUMP = "The pump hums at night and the gauge of the outlet shows nothing at all for hours."
VALVE = "The valve of the inlet opens in two seconds, or else its spring has to be replaced."
MOTOR = "The motor draws eleven amperes when it starts, and four when it has been running."


@dataclass
class Asked:
    """`Models` by the words that tests count; the reranker prefers texts with `favourite`."""

    favourite: str = ""
    wait_s: float = 0.0
    error: Exception | None = None
    asked: list[Sequence[str]] = field(default_factory=list)

    async def question(self, embedder: Embedder, text: str) -> Vectors:
        return vector(text, embedder.dimensions)

    async def rerank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        self.asked.append(texts)
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        return [8.0 if self.favourite and self.favourite in text else -8.0 for text in texts] if self.favourite else ()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    opened = open_store(str(tmp_path / "documents.db"))
    yield opened
    opened.close()


def filled(store: DocumentStore, *texts: str, embedder: Embedder = SMALL, **how: str) -> str:
    id_ = store.stores.create("", embedder, data_class=how.get("data_class", "documents")).id
    for text in texts:
        put(store, id_, text, {"kind": text.split()[1]})
    work(store)
    return id_


def retriever(store: DocumentStore, models: Asked | None = None, rerank_s: float = 1.0) -> Retriever:
    return Retriever(Threads(store), models or Asked(), rerank_s, Pace())


def first(passages: Sequence[Passage]) -> str:
    return passages[0].text.split()[1]


async def test_both_paths_are_told_with_their_scores(store: DocumentStore) -> None:
    id_ = filled(store, PUMP, VALVE, MOTOR)
    found = await retriever(store).search(Wanted([id_], ["pump outlet gauge"]))
    best = found.results[0]
    assert (best.file.attributes["kind"], best.scores.path, best.page) == ("pump", "both", 1)
    assert best.scores.cosine is not None
    assert best.scores.words is not None
    assert best.headings == ("Manual", "Part 0")
    assert best.passage.text == PUMP
    assert [one.scores.final for one in found.results] == sorted((o.scores.final for o in found.results), reverse=True)
    assert found.data_classes == {"documents"}


async def test_the_reranker_decides_among_the_close_ones(store: DocumentStore) -> None:
    id_ = filled(store, PUMP, VALVE)
    question = "pump valve"
    models = Asked(favourite="valve")
    found = await retriever(store, models).search(Wanted([id_], [question]))
    assert models.asked
    assert first([found.results[0].passage]) == "valve"
    assert found.results[0].scores.rerank is not None
    models = Asked(favourite="pump")
    found = await retriever(store, models).search(Wanted([id_], [question]))
    assert first([found.results[0].passage]) == "pump"


async def test_a_single_piece_of_many_matters_is_looked_at_twice(store: DocumentStore) -> None:
    id_ = filled(store, PUMP)
    models = Asked(favourite="nobody")
    found = await retriever(store, models).search(Wanted([id_], ["How warm may the cellar become?"]))
    assert len(models.asked) == 2, "the piece, and then its parts"
    assert not found.answered


@pytest.mark.parametrize(
    ("models", "rerank_s", "rerank"),
    [
        (Asked(favourite="valve"), 1.0, False),
        (Asked(favourite="valve"), 0.0, True),
        (Asked(favourite="valve", error=Unavailable("It is down.")), 1.0, True),
        (Asked(favourite="valve", wait_s=60.0), 0.05, True),
        (Asked(), 1.0, True),
    ],
    ids=["not asked for", "no time", "fails", "too slow", "none there"],
)
async def test_a_search_goes_without_its_reranker(
    store: DocumentStore, models: Asked, rerank_s: float, rerank: bool
) -> None:
    id_ = filled(store, PUMP, VALVE)
    found = await retriever(store, models, rerank_s).search(Wanted([id_], ["pump valve"], rerank=rerank))
    assert len(found.results) == 2
    assert all(one.scores.rerank is None for one in found.results)


async def test_a_slow_reranker_gets_fewer_pairs(store: DocumentStore) -> None:
    id_ = filled(store, PUMP, VALVE, MOTOR)
    pace = Pace(pair_s=0.5)
    models = Asked(favourite="pump")
    await Retriever(Threads(store), models, 1.2, pace).search(Wanted([id_], ["pump valve motor"]))
    assert len(models.asked[0]) == 2, "a second is enough for two of half a second"
    assert pace.pair_s < 0.5, "and these two took less"


async def test_several_stores_are_one(store: DocumentStore) -> None:
    one, two = filled(store, PUMP), filled(store, VALVE, PUMP, data_class="manuals")
    found = await retriever(store).search(Wanted([one, two], ["pump"]))
    assert [result.file.attributes["kind"] for result in found.results].count("pump") == 1
    assert found.data_classes == {"documents", "manuals"}


async def test_stores_of_several_embedders_are_one(store: DocumentStore) -> None:
    one, two = filled(store, PUMP), filled(store, VALVE, embedder=OTHER)
    found = await retriever(store).search(Wanted([one, two], ["pump valve"]))
    assert {result.file.attributes["kind"] for result in found.results} == {"pump", "valve"}


async def test_each_question_counts_and_each_place_is_shown_once(store: DocumentStore) -> None:
    id_ = filled(store, PUMP, VALVE, MOTOR)
    found = await retriever(store).search(Wanted([id_], ["pump", "motor", "pump gauge"], limit=2))
    assert {result.file.attributes["kind"] for result in found.results} == {"pump", "motor"}


async def test_a_filter_comes_before_the_best(store: DocumentStore) -> None:
    id_ = filled(store, *(f"The pump of unit {n} hums, and so does its motor in the hall." for n in range(30)), VALVE)
    found = await retriever(store).search(Wanted([id_], ["pump"], Comparison("eq", "kind", "valve"), limit=5))
    assert [result.file.attributes["kind"] for result in found.results] == ["valve"]


async def test_a_threshold_leaves_out_what_does_not_fit(store: DocumentStore) -> None:
    id_ = filled(store, PUMP, VALVE, MOTOR)
    every = await retriever(store).search(Wanted([id_], ["pump"]))
    least = every.results[0].score
    some = await retriever(store).search(Wanted([id_], ["pump"], threshold=least))
    assert 1 <= len(some.results) < len(every.results)


async def test_nothing_is_found_in_nothing(store: DocumentStore) -> None:
    id_ = store.stores.create("", SMALL).id
    found = await retriever(store).search(Wanted([id_], ["pump"]))
    assert (found.results, found.answered, found.confidence) == ((), False, 0.0)


async def test_a_store_that_is_not_there_is_said(store: DocumentStore) -> None:
    with pytest.raises(NotThere):
        await retriever(store).search(Wanted(["vs_none"], ["pump"]))


async def test_a_store_that_has_expired_is_said(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = open_store(str(tmp_path / "expiring.db"), clock=lambda: now[0])
    id_ = store.stores.create("", SMALL, expires_after=1).id
    now[0] += 2 * 86_400
    store.stores.expire()
    with pytest.raises(InvalidRequest, match="expired"):
        await retriever(store).search(Wanted([id_], ["pump"]))
    store.close()


async def test_a_search_is_use(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = open_store(str(tmp_path / "used.db"), clock=lambda: now[0])
    id_ = store.stores.create("", SMALL, expires_after=1).id
    now[0] += 3_600
    await retriever(store).search(Wanted([id_], ["pump"]))
    while store.stores.get(id_).last_active != now[0]:
        await asyncio.sleep(0.01)
    store.close()


async def test_what_a_second_look_found_scores_as_it_is_believed(store: DocumentStore) -> None:
    id_ = filled(store, "\n\n".join([MOTOR, PUMP, VALVE]))

    class Looking(Asked):
        async def rerank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
            """A part about the matter; the whole is beside the point."""
            return [6.0 if "spring" in text and "motor" not in text else -8.0 for text in texts]

    found = await retriever(store, Looking()).search(Wanted([id_], ["Where is its spring?"], threshold=0.5))
    assert found.answered
    assert found.results[0].score == found.confidence >= 0.5
    assert found.results[0].scores.score < found.confidence
