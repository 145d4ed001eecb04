import pytest

from backends.types import Request
from policies.base import Route, Snapshot
from policies.locality import locality

HERE, THERE = Route("local/a", "a"), Route("provider/b", "b", "remote")


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        (None, (THERE, HERE)),
        ("only_local", (HERE,)),
        ("only_remote", (THERE,)),
        ("prefer_local", (HERE, THERE)),
        ("prefer_remote", (THERE, HERE)),
    ],
)
def test_order_and_drops(wish, kept):
    verdict = locality(Request("r", "auto", "chat", locality=wish), (THERE, HERE), Snapshot())
    assert verdict.kept == kept
    assert bool(verdict.reason) == (kept == (HERE, THERE))
    assert len(verdict.drops) == 2 - len(kept)


def test_an_impossible_wish_names_its_field():
    verdict = locality(Request("r", "auto", "chat", locality="only_remote"), (HERE,), Snapshot())
    assert verdict.kept == ()
    assert verdict.drops[0].error.code == "no_route"
    assert verdict.drops[0].error.param == "outstation.locality"
