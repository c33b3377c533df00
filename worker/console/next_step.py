"""What a person can do about an operation, in the words of the buttons. `worker.report` says it for a shell."""

from worker.operation import MESSAGE_KIND, FailureReason, OnUnknown, Operation
from worker.report import sentences

_FAILED = {
    FailureReason.REJECTED: "Correct what B2COPY names, then replay it.",
    FailureReason.EXHAUSTED: "Find out at B2COPY why, then replay it.",
    FailureReason.EXPIRED: "If it is still wanted, replay it.",
    FailureReason.BAD_PAYLOAD: "Have it requested again with the payload corrected. Nothing of this one was sent.",
    FailureReason.INTERNAL: "Once the fault is corrected (the worker's log has it), replay it.",
}
_KIND = "Clear up at B2COPY what it says, then replay it."
_NO_HARM = {
    OnUnknown.START_OR_GET: "A replay does no harm, because the same call returns how it stands.",
    OnUnknown.READ_BACK: "A replay does no harm, because it looks first whether it was done.",
    OnUnknown.REPEAT: "A replay does no harm, because its sender allowed it.",
}


def next_step(operation: Operation) -> str:
    """Return a sentence; empty if there is nothing to do."""
    reason = operation.failure_reason
    if reason is None:
        return sentences.remedy(operation).replace("`b2copy-sync session show` says why.", "The System page says why.")
    if operation.kind == MESSAGE_KIND:
        return _FAILED[FailureReason.BAD_PAYLOAD]
    if reason == FailureReason.UNRESOLVED:
        if operation.on_unknown != OnUnknown.STOP:
            return _NO_HARM[operation.on_unknown]
        if not operation.outcome_unknown:
            return _FAILED[FailureReason.EXHAUSTED]
        step = operation.unknown_step or "it"
        return f"Find out at B2COPY whether {step} was done, then say so. Nothing is done before you do."
    known = reason in FailureReason.__members__.values()
    return _FAILED[FailureReason(reason)] if known else _KIND
