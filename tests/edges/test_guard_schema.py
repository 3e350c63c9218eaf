"""The OpenAPI document, taken at its word by schemathesis: every route, with requests that fit it and that do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.edges.test_guard_hostile import INSIDE
from tests.helpers_guard import KEY, Running, running
from torch import nn

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def serving(digits_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_GUARD_KEY", KEY)
        with running(digits_net, database=f"sqlite:///{folder}/events.db") as service:
            yield service


def tried(serving: Running, examples: int, routes: str = "") -> int:
    """How many requests were sent."""
    schema = schemathesis.openapi.from_url(f"{serving.url}/openapi.json").include(path_regex=routes)
    sent = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                nonlocal sent
                answer = case.call(timeout=10)
                sent += 1
                case.validate_response(answer, checks=CHECKS)
                assert not any(word in answer.text for word in INSIDE), answer.text
                assert "server" not in answer.headers

            try:
                check()
            except Unsatisfiable:
                continue  # nothing about this route can be wrong
    return sent


def test_pictures_keep_the_documents_word(serving: Running) -> None:
    assert tried(serving, 8, "^/v1/predict$") >= 12


@pytest.mark.slow
def test_every_route_keeps_the_documents_word(serving: Running) -> None:
    assert tried(serving, 100) >= 900
