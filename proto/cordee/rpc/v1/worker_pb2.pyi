from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_PREPARING: _ClassVar[Phase]
    PHASE_MEETING: _ClassVar[Phase]
    PHASE_COMPUTING: _ClassVar[Phase]
    PHASE_EXCHANGING: _ClassVar[Phase]
    PHASE_OUTSIDE: _ClassVar[Phase]

class ArrivalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARRIVAL_REASON_UNSPECIFIED: _ClassVar[ArrivalReason]
    ARRIVAL_REASON_JOIN: _ClassVar[ArrivalReason]
    ARRIVAL_REASON_CHANGE: _ClassVar[ArrivalReason]
    ARRIVAL_REASON_PEER_LOST: _ClassVar[ArrivalReason]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_DRAINED: _ClassVar[StopReason]
    STOP_REASON_CANCELLED: _ClassVar[StopReason]
    STOP_REASON_FINISHED: _ClassVar[StopReason]
    STOP_REASON_FAILED: _ClassVar[StopReason]
    STOP_REASON_FENCED: _ClassVar[StopReason]
    STOP_REASON_STUCK: _ClassVar[StopReason]
PHASE_UNSPECIFIED: Phase
PHASE_PREPARING: Phase
PHASE_MEETING: Phase
PHASE_COMPUTING: Phase
PHASE_EXCHANGING: Phase
PHASE_OUTSIDE: Phase
ARRIVAL_REASON_UNSPECIFIED: ArrivalReason
ARRIVAL_REASON_JOIN: ArrivalReason
ARRIVAL_REASON_CHANGE: ArrivalReason
ARRIVAL_REASON_PEER_LOST: ArrivalReason
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_DRAINED: StopReason
STOP_REASON_CANCELLED: StopReason
STOP_REASON_FINISHED: StopReason
STOP_REASON_FAILED: StopReason
STOP_REASON_FENCED: StopReason
STOP_REASON_STUCK: StopReason

class WorkerMessage(_message.Message):
    __slots__ = ("hello", "heartbeat", "arrived", "progress", "checkpointed", "leaving", "finished", "script_failed", "note", "reached")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FAILED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    arrived: Arrived
    progress: Progress
    checkpointed: Checkpointed
    leaving: Leaving
    finished: Finished
    script_failed: ScriptFailed
    note: Note
    reached: Reached
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., arrived: _Optional[_Union[Arrived, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., checkpointed: _Optional[_Union[Checkpointed, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., script_failed: _Optional[_Union[ScriptFailed, _Mapping]] = ..., note: _Optional[_Union[Note, _Mapping]] = ..., reached: _Optional[_Union[Reached, _Mapping]] = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("welcome", "world", "change_pending", "abort", "stop", "fault", "probe")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    WORLD_FIELD_NUMBER: _ClassVar[int]
    CHANGE_PENDING_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    world: World
    change_pending: ChangePending
    abort: Abort
    stop: Stop
    fault: Fault
    probe: Probe
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., world: _Optional[_Union[World, _Mapping]] = ..., change_pending: _Optional[_Union[ChangePending, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("job", "worker", "incarnation", "address", "generation", "step", "has_state", "pid", "waiting", "previous")
    JOB_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HAS_STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    job: str
    worker: str
    incarnation: str
    address: str
    generation: int
    step: int
    has_state: bool
    pid: int
    waiting: bool
    previous: PostMortem
    def __init__(self, job: _Optional[str] = ..., worker: _Optional[str] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., has_state: _Optional[bool] = ..., pid: _Optional[int] = ..., waiting: _Optional[bool] = ..., previous: _Optional[_Union[PostMortem, _Mapping]] = ...) -> None: ...

class PostMortem(_message.Message):
    __slots__ = ("incarnation", "code", "words", "stack", "step", "asked", "silent", "patience", "out_of_memory")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    code: int
    words: str
    stack: str
    step: int
    asked: bool
    silent: bool
    patience: int
    out_of_memory: bool
    def __init__(self, incarnation: _Optional[str] = ..., code: _Optional[int] = ..., words: _Optional[str] = ..., stack: _Optional[str] = ..., step: _Optional[int] = ..., asked: _Optional[bool] = ..., silent: _Optional[bool] = ..., patience: _Optional[int] = ..., out_of_memory: _Optional[bool] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("heartbeat_seconds", "generation", "secret")
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    heartbeat_seconds: float
    generation: int
    secret: str
    def __init__(self, heartbeat_seconds: _Optional[float] = ..., generation: _Optional[int] = ..., secret: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("generation", "step", "activity")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    activity: Activity
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("phase", "step", "seconds", "waiting_for", "idle_seconds")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    step: int
    seconds: float
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    idle_seconds: float
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., step: _Optional[int] = ..., seconds: _Optional[float] = ..., waiting_for: _Optional[_Iterable[str]] = ..., idle_seconds: _Optional[float] = ...) -> None: ...

class Arrived(_message.Message):
    __slots__ = ("generation", "step", "has_state", "reason", "suspects", "computes_with")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HAS_STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    COMPUTES_WITH_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    has_state: bool
    reason: ArrivalReason
    suspects: _containers.RepeatedScalarFieldContainer[str]
    computes_with: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., has_state: _Optional[bool] = ..., reason: _Optional[_Union[ArrivalReason, str]] = ..., suspects: _Optional[_Iterable[str]] = ..., computes_with: _Optional[_Iterable[str]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("rank", "worker", "incarnation", "address", "step", "has_state")
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HAS_STATE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    worker: str
    incarnation: str
    address: str
    step: int
    has_state: bool
    def __init__(self, rank: _Optional[int] = ..., worker: _Optional[str] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ..., step: _Optional[int] = ..., has_state: _Optional[bool] = ...) -> None: ...

class World(_message.Message):
    __slots__ = ("generation", "members", "step", "cause")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    step: int
    cause: str
    def __init__(self, generation: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., step: _Optional[int] = ..., cause: _Optional[str] = ...) -> None: ...

class ChangePending(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("generation", "lost")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    generation: int
    lost: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[int] = ..., lost: _Optional[_Iterable[str]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, peers: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Reached(_message.Message):
    __slots__ = ("incarnations",)
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    incarnations: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, incarnations: _Optional[_Iterable[str]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: StopReason
    message: str
    def __init__(self, reason: _Optional[_Union[StopReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("generation", "step", "steps_total", "epoch", "epochs", "loss", "samples", "step_seconds", "samples_per_second", "metrics", "paces", "data_seconds")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PACES_FIELD_NUMBER: _ClassVar[int]
    DATA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    steps_total: int
    epoch: int
    epochs: int
    loss: float
    samples: int
    step_seconds: float
    samples_per_second: float
    metrics: _containers.ScalarMap[str, float]
    paces: _containers.RepeatedCompositeFieldContainer[Pace]
    data_seconds: float
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., steps_total: _Optional[int] = ..., epoch: _Optional[int] = ..., epochs: _Optional[int] = ..., loss: _Optional[float] = ..., samples: _Optional[int] = ..., step_seconds: _Optional[float] = ..., samples_per_second: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., paces: _Optional[_Iterable[_Union[Pace, _Mapping]]] = ..., data_seconds: _Optional[float] = ...) -> None: ...

class Pace(_message.Message):
    __slots__ = ("worker", "shard_seconds", "data_seconds")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SHARD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    shard_seconds: float
    data_seconds: float
    def __init__(self, worker: _Optional[str] = ..., shard_seconds: _Optional[float] = ..., data_seconds: _Optional[float] = ...) -> None: ...

class Checkpointed(_message.Message):
    __slots__ = ("step", "path", "size_bytes", "seconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    path: str
    size_bytes: int
    seconds: float
    def __init__(self, step: _Optional[int] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Leaving(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("step", "samples", "weights_sha256", "metrics", "weights_path")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_PATH_FIELD_NUMBER: _ClassVar[int]
    step: int
    samples: int
    weights_sha256: str
    metrics: _containers.ScalarMap[str, float]
    weights_path: str
    def __init__(self, step: _Optional[int] = ..., samples: _Optional[int] = ..., weights_sha256: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., weights_path: _Optional[str] = ...) -> None: ...

class ScriptFailed(_message.Message):
    __slots__ = ("exception", "traceback", "step")
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    exception: str
    traceback: str
    step: int
    def __init__(self, exception: _Optional[str] = ..., traceback: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class Note(_message.Message):
    __slots__ = ("kind", "message", "seconds")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    seconds: float
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("kind", "seconds", "peer", "amount")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    seconds: float
    peer: str
    amount: float
    def __init__(self, kind: _Optional[str] = ..., seconds: _Optional[float] = ..., peer: _Optional[str] = ..., amount: _Optional[float] = ...) -> None: ...

class FetchBundleRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class BundleChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
