"""The one tree of errors: it tells a caller what may be done next, not which library spoke.

Libraries' own errors are turned into one of these where they enter (kube/, sql/, later ssh/), with the original
as ``__cause__``. Not for wrong programs: those raise what Python raises and end in the task's owner.
"""


class OperatorError(Exception):
    """Something went wrong outside of the code: the API server, a server, the network or the user's input.

    Never raised itself; catch it where every kind ends the same way. The message is one sentence for a person:
    what was asked, of whom, and what came back. It carries no secret.
    """


class Transient(OperatorError):
    """It was not done, and the same request may succeed later: refused, overloaded, a conflict.

    The request is known to have had no effect. Observe again, then ask again after a back-off.
    """


class Permanent(OperatorError):
    """It was not done, and asking again changes nothing: forbidden, invalid, not there, too old.

    Somebody has to change something first. Ends in a condition and an Event that name field, value and remedy.
    """


class Uncertain(OperatorError):
    """It may or may not have been done: a lost reply, a deadline that passed, a cancelled write.

    Never means dead, and never means failed. Observe until the outcome is seen; until then assume the worse of
    the two for the data.
    """
