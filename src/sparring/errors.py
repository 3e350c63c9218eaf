"""The exception tree. Whatever a user can cause is a `SparringError`; the commands turn it into exit code 2."""


class SparringError(Exception):
    """Base of every error that sparring raises on purpose."""


class InputError(SparringError, ValueError):
    """A value the caller passed cannot be used. The message names it, what was allowed, and what to do."""


class ModelError(SparringError):
    """The model broke the contract: images in, one row of logits per image out."""


class UnsupportedError(SparringError):
    """A combination that does not exist (an attack with a norm, a loss with too few classes, missing access)."""


class DataError(SparringError):
    """A data set or picture could not be read."""


class ConfigError(SparringError):
    """`sparring.toml` or a flag is wrong."""


class EndpointError(SparringError):
    """A model behind HTTP did not answer, or answered something else than was declared."""


class QueriesSpentError(SparringError):
    """The declared cap of queries is reached; nothing more is sent."""


class RecordsError(SparringError):
    """Stored records cannot be read, written or resumed."""


class MissingExtraError(SparringError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'sparring[{extra}]'")


def unknown(kind: str, name: object, known: list[str]) -> str:
    """Message for an unknown name: the known ones, the nearest first."""
    import difflib

    if not known:
        return f"unknown {kind} {name!r}: there is none to choose from"
    near = difflib.get_close_matches(str(name), known, n=len(known), cutoff=0.5)
    ordered = near + sorted(set(known) - set(near))
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(ordered)}."
