"""Traces (OpenTelemetry): one from the CRM's request through the ledger to B2COPY's answer and the notice.

    b2copy.request   the CRM's call, or the message that a worker took in
    b2copy.attempt   one attempt of a worker; its parent is what `trace_id` of the operation holds, a W3C traceparent
    b2copy.call      one HTTP request of an attempt

A fee run may be pending for days, and each poll is an attempt. So that no trace grows without end, attempts after the
claim `CLAIMS_IN_TRACE` have traces of their own, with a link to what would be their parent. If that was sampled, the
sampler decides again about each of these traces; if it was not, none of them is sampled. `enqueue.many` and imports
record no `trace_id`, so each attempt of their operations has a trace of its own and no link.

Off without B2COPY_TRACES_URL: then neither OpenTelemetry's SDK nor its exporter is imported. A CRM that has set up
OpenTelemetry itself gets `b2copy.request` from its own provider. Names are constants. Attributes are the kind, the
lane, the phase, the outcome, the route's name, the HTTP status, and a hash of the key: never an id, a payload, a
message or a host. Nothing of a trace is sent to B2COPY.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from worker.errors import SettingsError
from worker.operation import VERSION, Claim
from worker.per_process import PerProcess
from worker.settings import crm_settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, Tracer

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 3.0  # seconds that a process that ends waits for a collector
CLAIMS_IN_TRACE = 20  # claims of an operation; polls of a pending fee run reach it after some minutes
_SCOPE = "b2copy-sync"


class SpanEnd:
    """Notes how the work of a span ended. Does nothing if there is no span."""

    __slots__ = ("_span",)

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span

    @property
    def is_recorded(self) -> bool:
        """Whether there is a span."""
        return self._span is not None

    @property
    def traceparent(self) -> str | None:
        """The span's traceparent, for what comes after it."""
        if self._span is None:
            return None
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, set_span_in_context(self._span))
        return headers.get("traceparent")

    def note(self, outcome: str, http_status: int | None = None, failed: bool = False) -> None:
        if self._span is None:
            return
        self._span.set_attribute("b2copy.outcome", outcome)
        if http_status is not None:
            self._span.set_attribute("http.response.status_code", http_status)
        if failed:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)  # without a description: it could hold what a server wrote


_NOTHING = nullcontext(SpanEnd())


@PerProcess
def _provider() -> "TracerProvider | None":
    """This process's provider, made after a fork. Not the global one, which belongs to the CRM."""
    url = crm_settings().traces_url
    if url is None:
        return None
    try:
        return _provider_to(url)
    except Exception as error:  # nothing may fail because it cannot be traced
        log.warning("there are no traces: %s: %s", type(error).__name__, error)
        return None


def _provider_to(url: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": _SCOPE, "service.version": VERSION}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=SEND_TIMEOUT_S)))
    return provider


def check_tracing() -> None:
    """Raises `SettingsError` if B2COPY_TRACES_URL is set and a package that it needs is absent."""
    url = crm_settings().traces_url
    if url is None:
        return
    try:
        _provider_to(url).shutdown()
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"B2COPY_TRACES_URL needs the package {error.name}: install b2copy-sync[tracing], or remove the setting"
        ) from None


def flush() -> None:
    """Send the spans that have not been sent. Takes at most `SEND_TIMEOUT_S`."""
    if (provider := _provider.existing) is not None:
        provider.force_flush(int(SEND_TIMEOUT_S * 1000))


def _tracer() -> "Tracer | None":
    provider = _provider()
    if provider is not None:
        return provider.get_tracer(_SCOPE, VERSION)
    api = sys.modules.get("opentelemetry.trace")  # redis-py imports it wherever it is installed
    if api is not None and hasattr(api, "get_tracer_provider"):  # another thread may still be importing it
        provider_of_crm = api.get_tracer_provider()  # a proxy until the CRM sets one
        if not isinstance(provider_of_crm, api.ProxyTracerProvider):
            tracer: Tracer = provider_of_crm.get_tracer(_SCOPE, VERSION)
            return tracer
    return None


@contextmanager
def requesting(kind: str, lane: str, parent: str | None = None) -> Iterator[str | None]:
    """A span around the recording of an operation. Gives the traceparent to store with the operation.

    `parent`: the sender's traceparent. Without tracing, it is what is given. With tracing and without `parent`, the
    span belongs to what the calling code does now.
    """
    if (tracer := _tracer()) is None:
        yield parent
        return
    with _span(tracer, "b2copy.request", "PRODUCER", {"b2copy.kind": kind, "b2copy.lane": lane}, parent) as span:
        yield span.traceparent or parent


def attempting(claim: Claim, lane: str, ledger_id: str) -> AbstractContextManager[SpanEnd]:
    """A span around one attempt of a worker. Its parent is the traceparent that the operation stores, if it has one.

    After the claim `CLAIMS_IN_TRACE` it begins a trace, with a link to that parent: as messaging systems do it,
    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/#trace-structure
    """
    if (tracer := _tracer()) is None:
        return _NOTHING
    attributes = {
        "b2copy.kind": claim.kind,
        "b2copy.lane": lane,
        "b2copy.phase": str(claim.phase),
        "b2copy.claim": claim.fence,
        # Keyed by the ledger's random id, because ids of withdrawals can be guessed.
        "b2copy.key_hash": hashlib.sha256(f"{ledger_id}/{claim.key}".encode()).hexdigest()[:16],
    }
    is_late = claim.fence > CLAIMS_IN_TRACE
    return _span(tracer, "b2copy.attempt", "CONSUMER", attributes, claim.trace_id, has_own_trace=is_late)


def calling(attempt: SpanEnd, destination: str, route: str, method: str) -> AbstractContextManager[SpanEnd]:
    """A span around one HTTP request of an attempt, if there is one around the attempt."""
    if not attempt.is_recorded or (tracer := _tracer()) is None:
        return _NOTHING
    attributes = {"b2copy.destination": destination, "b2copy.route": route, "http.request.method": method}
    return _span(tracer, "b2copy.call", "CLIENT", attributes)


@contextmanager
def _span(
    tracer: "Tracer",
    name: str,
    kind: str,
    attributes: dict[str, Any],
    parent: str | None = None,
    has_own_trace: bool = False,
) -> Iterator[SpanEnd]:
    """A span of OpenTelemetry's `SpanKind` `kind`, below the traceparent `parent` or what the calling code does now.

    With `has_own_trace` it is only linked to `parent`.
    """
    from opentelemetry.trace import SpanKind

    context, links = _context_of(parent), list["Link"]()
    if has_own_trace and context is not None:
        context, links = _linked_to(context)
    # An exception's text may hold ids, so it is not recorded.
    with tracer.start_as_current_span(
        name, context, SpanKind[kind], attributes, links, record_exception=False, set_status_on_exception=False
    ) as span:
        yield SpanEnd(span)


def _linked_to(context: "Context") -> "tuple[Context, list[Link]]":
    """Return a context without a parent, and a link to the span of `context`. What was not sampled remains so."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_current_span

    parent = get_current_span(context).get_span_context()
    return (Context(), [Link(parent)]) if parent.trace_flags.sampled else (context, [])


def _context_of(parent: str | None) -> "Context | None":
    """Return the context of a traceparent. None, the present context, if there is none or if it is another text."""
    if parent is None:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    return context if get_current_span(context).get_span_context().is_valid else None
