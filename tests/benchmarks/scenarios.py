"""The scenarios by name. Each pairs us with a reference in the same run, in turn: A B A B …"""

from __future__ import annotations

from tests.benchmarks import batches, single
from tests.benchmarks.against import HEAVY, SINGLE, batcher, triton
from tests.benchmarks.clients import clients
from tests.benchmarks.history import history
from tests.benchmarks.ours import LARGE, MIDDLE, SMALL, Ours
from tests.benchmarks.report import Budget, Finding
from tests.benchmarks.resident import million, resident
from tests.benchmarks.scenario import Scenario, Settings
from tests.benchmarks.steps import against_ort, against_product, derived

TORCH, ORT = "forty lines of asyncio on torch", "forty lines of asyncio on ONNX Runtime"


def memory(settings: Settings) -> list[Finding]:
    """Memory of 100,000 sessions above their raw state."""
    with Ours(settings.folder, (settings.cores.server,)) as ours:
        return [resident(ours, 100_000)]


def a_million(settings: Settings) -> list[Finding]:
    """A million sessions, opened and stepped."""
    with Ours(settings.folder, (settings.cores.server,)) as ours:
        return million(ours)


SCENARIOS: dict[str, Scenario] = {
    "observations": Scenario("64 streams of single observations, against the grpc.aio echo", single.observations),
    "fairness": Scenario("256 streams: the worst one's share, the longest wait; the echo's beside", single.fairness),
    "one-session": Scenario("one observation at a time: the round trip, against the echo's", single.one_session),
    "open-loop": Scenario("p99 at 20, 50 and 80% of capacity, 256 sessions, against the echo's", single.open_loop),
    "batches": Scenario("observation batches of 256, against nn.LSTM with slots in process", batches.batches),
    "step-share": Scenario("how much of the server's time is the step, by the number of streams", batches.step_share),
    "many-batches": Scenario("64 streams of batches, of 16 and 256, against the grpc.aio echo", batches.many_streams),
    "step-64x1": Scenario(
        "the engine's step, hidden 64, against the product alone", against_product(SMALL, {256: 2.5, 1024: 2.5})
    ),
    "step-512x2": Scenario(
        "the same, 2 layers of 512, against the products alone", against_product(LARGE, {256: 1.25, 1024: None})
    ),
    "step-ort-64x1": Scenario("the engine's step, hidden 64, against ONNX Runtime", against_ort(SMALL, budget=True)),
    "step-derived-64x1": Scenario(
        "the engine's step with logarithms, lags and calendar, against one that scales alone", derived(SMALL)
    ),
    "memory": Scenario("bytes a resident session above its raw state, at 100,000", memory, slow=True),
    "million": Scenario("the same at 1,000,000, opened and stepped, and whether they fit", a_million),
    "history": Scenario("1,000 steps in one message, against one observation after another", history),
    "against-batcher-ort": Scenario(f"single observations, against {ORT}", batcher(SINGLE, "ort", ORT, Budget(1.0))),
    "against-batcher-torch": Scenario(f"the same against {TORCH}", batcher(SINGLE, "torch", TORCH, None), slow=True),
    "large-against-batcher-ort": Scenario(
        f"2 layers of 512, 256 streams, two cores, against {ORT}", batcher(HEAVY, "ort", ORT, Budget(1.3))
    ),
    "large-against-batcher-torch": Scenario(f"the same against {TORCH}", batcher(HEAVY, "torch", TORCH, Budget(1.3))),
    "against-triton": Scenario(
        "single observations, against Triton's sequence batcher (--triton-venv)", triton(SINGLE, Budget(1.3))
    ),
    "large-against-triton": Scenario(
        "2 layers of 512, 256 streams, two cores, against Triton (--triton-venv)", triton(HEAVY, Budget(1.3))
    ),
    "batches-against-triton": Scenario(
        "batches of 256, against Triton with an observation a request (--triton-venv)", batches.against_triton
    ),
    "step-128x2": Scenario(
        "as step-64x1, 2 layers of 128", against_product(MIDDLE, {256: None, 1024: None}), slow=True
    ),
    "step-ort-128x2": Scenario("as step-ort-64x1, 2 layers of 128", against_ort(MIDDLE, budget=False), slow=True),
    "step-ort-512x2": Scenario("as step-ort-64x1, 2 layers of 512", against_ort(LARGE, budget=False), slow=True),
    "sweep-observations": Scenario("as observations, with 1, 16, 64 and 256 sessions", single.sweep, slow=True),
    "sweep-batches": Scenario("as batches, of 16, 256 and 4,096, hidden 64 and 2 x 128", batches.sweep, slow=True),
    "clients": Scenario("tidegate bench beside gload, on the same server", clients, slow=True),
}
