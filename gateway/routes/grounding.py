"""From a request that names vector stores to one that is answered from them."""

from __future__ import annotations

from dataclasses import replace

from backends.types import Request
from gateway.documents.asked import Search
from gateway.documents.grounded import Grounded
from gateway.routes.documents import ID
from gateway.routes.inference import Inference
from rag.store.errors import NotThere

FORMS = frozenset({"functions", "web_search", "audio_output"})


async def grounded(inference: Inference, request: Request, search: Search, param: str) -> tuple[Request, Grounded]:
    """The request with the data classes of all that may be told in it, and who answers it.

    Args:
        param: what the request calls the vector stores.

    Raises:
        RefusedError: (403) its key may not read documents. NotThere: a vector store that is not there.
    """
    inference.documents.rights.check(request.key, "read")
    if unheard := next((id_ for id_ in search.stores if not ID.fullmatch(id_)), None):
        raise NotThere("vector store", unheard, param)
    try:
        classes = await inference.documents.data_classes(search.stores)
    except NotThere as error:
        error.param = param
        raise
    request = replace(request, declared=request.declared | classes)
    calls = bool(request.tools) and request.tool_choice != "none"
    only = not calls and request.grammar is None and not request.needs & FORMS
    return request, Grounded(inference.dispatcher, inference.documents, search, param, only=only)
