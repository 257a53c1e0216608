"""The four ways a step can end badly, and the exit code of each.

Argo decides on these codes whether to retry, so they are part of the contract: 75 is retried, 66 and 78 are not.
Any other exception is a bug: exit code 1 and a traceback.
"""


class PrefprobeError(Exception):
    """Base of all expected failures. The message is one sentence: what is wrong, where, and the next step."""

    exit_code = 1


class TemporaryFailure(PrefprobeError):
    """Worth trying again: a server that answers 429 or 5xx, an object store out of reach, a lost GPU, a drained pod."""

    exit_code = 75


class BadConfig(PrefprobeError):
    """A preset, a task file or another input of the user's breaks its contract. Trying again changes nothing."""

    exit_code = 78


class InputMissing(PrefprobeError):
    """An input is not in the store, or its bytes do not match their digest."""

    exit_code = 66
