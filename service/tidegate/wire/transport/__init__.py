"""gRPC on the event loop, at a third of what a message costs through grpc.aio.

grpc.aio takes each event of gRPC's core off its queue in a thread of its own, writes to a socket to wake the event
loop, and has a future and a task for each message. Here the loop takes events off the queue itself while there are any
(`pump.py`), a message goes to its stream by a plain call, and answers leave at once (`rpc.py`). All of HTTP/2 stays
gRPC's own. Handlers are those of grpc.aio, and a server is one of its servers for whatever adds handlers to it.

It stands on `grpc._cython.cygrpc`, as grpc's own servers do, which gRPC does not promise to keep. Where that has
changed, `make_server` takes grpc.aio's server, which does the same, slower (`aio.py`).
"""

from tidegate.wire.transport.aio import GONE
from tidegate.wire.transport.choice import make_server, stream_of, takes_up, unread_bytes
from tidegate.wire.transport.stream import Stream

__all__ = ["GONE", "Stream", "make_server", "stream_of", "takes_up", "unread_bytes"]
