"""A collector of traces: takes OTLP over HTTP and holds what it was sent."""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class SentSpan:
    """A span as it arrived. Ids are hexadecimal; `parent` is empty for the first span of a trace."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    is_error: bool
    links: list[tuple[str, str]]  # trace and id of each span that it is linked to
    text: str  # all of it, for a search


class Collector:
    """A context manager; listens on the loopback address."""

    def __init__(self) -> None:
        self.spans: list[SentSpan] = []
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def named(self, name: str, **attributes: Any) -> list[SentSpan]:
        """Return the spans with this name and these attributes (their names without `b2copy.`), as they arrived."""
        wanted = {f"b2copy.{key}": value for key, value in attributes.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes) -> None:
        self.raw += body
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {one.key: _value(one.value) for one in span.attributes}
                    links = [(one.trace_id.hex(), one.span_id.hex()) for one in span.links]
                    sent = SentSpan(
                        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), attributes,
                        span.status.code == 2, links, str(span),
                    )  # fmt: skip
                    self.spans.append(sent)


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
