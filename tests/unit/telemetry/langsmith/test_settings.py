"""LangSmith's environment variables and its sampling."""

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.langsmith.settings import DEFAULT_ENDPOINT, HideOptions, LangSmithOptions, is_sampled

FORMER = {
    "LANGCHAIN_API_KEY": "k",
    "LANGCHAIN_PROJECT": "p",
    "LANGCHAIN_ENDPOINT": "https://old",
    "LANGCHAIN_HIDE_INPUTS": "true",
    "LANGCHAIN_HIDE_OUTPUTS": "1",
    "LANGCHAIN_HIDE_METADATA": "yes",
    "LANGCHAIN_TRACING_SAMPLING_RATE": "0.25",
    "LANGCHAIN_TRACING_V2": "true",
}
FOUND = LangSmithOptions(
    api_key="k",
    project="p",
    endpoint="https://old",
    hide=HideOptions(inputs=True, outputs=True, metadata=True),
    sampling_rate=0.25,
)


def test_former_names_are_read() -> None:
    """Each `LANGCHAIN_*` variable is used unless the `LANGSMITH_*` one is set."""
    assert LangSmithOptions.from_env(FORMER) == FOUND
    present = {name.replace("LANGCHAIN", "LANGSMITH"): value for name, value in FORMER.items()}
    assert LangSmithOptions.from_env(present) == FOUND
    for name in present:
        both = {**dict.fromkeys(FORMER, "0"), **FORMER, name.replace("LANGSMITH", "LANGCHAIN"): "0", **present}
        assert LangSmithOptions.from_env(both) == FOUND


def test_the_key_alone_enables_the_export() -> None:
    """It goes to LangSmith's cloud with nothing hidden; no key, or `LANGSMITH_TRACING=false`, disables it."""
    assert LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k"}) == LangSmithOptions(
        api_key="k", endpoint=DEFAULT_ENDPOINT, project="default", hide=HideOptions(), sampling_rate=1.0
    )
    for no_key in ({}, {"LANGSMITH_API_KEY": ""}, {"LANGSMITH_API_KEY": " "}):
        assert LangSmithOptions.from_env(no_key) is None
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
        assert LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", name: "false"}) is None


@pytest.mark.parametrize("answer", ["", "0", "false", "No", "off"])
def test_a_misspelt_hide_variable_hides(answer: str) -> None:
    """Only a clear no shows the inputs."""
    found = LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", "LANGSMITH_HIDE_INPUTS": answer})
    misspelt = LangSmithOptions.from_env({"LANGSMITH_API_KEY": "k", "LANGSMITH_HIDE_INPUTS": "ture"})
    assert found is not None
    assert misspelt is not None
    assert (found.hide.inputs, misspelt.hide.inputs) == (False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"LANGSMITH_TRACING_SAMPLING_RATE": "often"},
        {"LANGSMITH_TRACING_SAMPLING_RATE": "1.5"},
        {"LANGSMITH_ENDPOINT": "ftp://there"},
    ],
)
def test_invalid_variables_are_rejected(wrong: dict[str, str]) -> None:
    """The message names the variable and does not contain the key."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))) as caught:
        LangSmithOptions.from_env({"LANGSMITH_API_KEY": "s3cret", **wrong})
    assert "s3cret" not in str(caught.value)


def test_every_process_samples_alike() -> None:
    """The decision depends on trace id and rate only, and a higher rate keeps every trace of a lower one."""
    kept = {rate: {trace_id for trace_id in range(1000) if is_sampled(trace_id, rate)} for rate in (0, 0.1, 0.5, 1)}
    assert kept[0] < kept[0.1] < kept[0.5] < kept[1] == set(range(1000))
    assert 450 < len(kept[0.5]) < 550
