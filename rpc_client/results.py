"""What methods answer. A member that is absent is None; those that only a newer daemon has are left out.

Made by `python -m virtiod.rpc.describe`; what is changed here is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bdev:
    """A block device."""

    name: str
    """Its name."""
    aliases: list[str]
    """Other names of it."""
    product_name: str
    """What kind of bdev it is."""
    block_size: int
    """Size of a block (bytes)."""
    num_blocks: int
    """Capacity (blocks)."""
    uuid: str
    """The same for the same disk."""
    assigned_rate_limits: RateLimits
    """There are none."""
    claimed: bool
    """Somebody has it open: an export, a load."""
    zoned: bool
    """Always false."""
    read_only: bool
    """It refuses writes."""
    write_cache: bool
    """What is written may be lost with power until it is flushed."""
    supported_io_types: dict[str, bool]
    """Whether it takes I/O of each type that SPDK knows."""
    driver_specific: DriverSpecific
    """What only its kind has."""
    users: list[BdevUser] | None = None
    """Who has it open; absent when nobody has."""


@dataclass(frozen=True, kw_only=True)
class BdevIoStat:
    """A bdev. A queue depth and its times are shown unless bdev_set_qd_sampling_period has hidden them."""

    name: str
    """Name of the bdev."""
    bytes_read: int
    """Of I/Os that succeeded (bytes)."""
    num_read_ops: int
    """I/Os that succeeded."""
    read_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_read_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_read_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_written: int
    """Of I/Os that succeeded (bytes)."""
    num_write_ops: int
    """I/Os that succeeded."""
    write_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_write_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_write_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_unmapped: int
    """Of I/Os that succeeded (bytes)."""
    num_unmap_ops: int
    """I/Os that succeeded."""
    unmap_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_unmap_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_unmap_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_copied: int
    """Always 0 (bytes)."""
    num_copy_ops: int
    """Always 0."""
    copy_latency_ticks: int
    """Always 0 (ticks)."""
    max_copy_latency_ticks: int
    """Always 0 (ticks)."""
    min_copy_latency_ticks: int
    """Always 0 (ticks)."""
    io_error: dict[str, int] | None = None
    """I/Os that failed, by status; absent when there are none."""
    queue_depth_polling_period: int | None = None
    """As bdev_set_qd_sampling_period has set it (us)."""
    queue_depth: int | None = None
    """I/Os in flight."""
    io_time: int | None = None
    """Time with I/O in flight (us)."""
    weighted_io_time: int | None = None
    """Sum of the latencies of all I/Os that ended, failed ones too (us)."""
    driver_specific: OtherIoStat
    """More of virtiod's own."""


@dataclass(frozen=True, kw_only=True)
class BdevUser:
    """Who has a bdev open: an export, for its clients, or a load."""

    kind: str
    """"load", or the kind of an export: "nbd"."""
    name: str
    """Name of the export, or pattern of the load."""
    access: str
    """What it may do now; none: an export without clients: none, read, write."""
    read_only: bool
    """An export that refuses writes."""
    clients: list[str]
    """Of an export, each once: process and user, or address."""


@dataclass(frozen=True, kw_only=True)
class BlkUnit:
    """The disk of a virtio-blk controller."""

    serial: str
    """Serial number; "" when the device has none."""


@dataclass(frozen=True, kw_only=True)
class BorderCounts:
    """How many I/Os took up to each border."""

    borders_count: list[int]
    """I/Os up to each border, and last all of them."""


@dataclass(frozen=True, kw_only=True)
class BufferUse:
    """How the data buffers of all pollers were taken."""

    module: str
    """Always "virtiod"."""
    small_pool: SmallBuffers
    """Those of 4 KiB."""
    large_pool: LargeBuffers
    """Those of 64 KiB."""


@dataclass(frozen=True, kw_only=True)
class ChannelIoStat:
    """A bdev on one poller."""

    thread_id: int
    """Number of the poller, from 1."""
    bytes_read: int
    """Of I/Os that succeeded (bytes)."""
    num_read_ops: int
    """I/Os that succeeded."""
    read_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_read_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_read_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_written: int
    """Of I/Os that succeeded (bytes)."""
    num_write_ops: int
    """I/Os that succeeded."""
    write_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_write_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_write_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_unmapped: int
    """Of I/Os that succeeded (bytes)."""
    num_unmap_ops: int
    """I/Os that succeeded."""
    unmap_latency_ticks: int
    """Sum of the latencies of I/Os that succeeded (ticks)."""
    max_unmap_latency_ticks: int
    """Largest latency of those; 0 for none (ticks)."""
    min_unmap_latency_ticks: int
    """Smallest latency of those; 0 for none (ticks)."""
    bytes_copied: int
    """Always 0 (bytes)."""
    num_copy_ops: int
    """Always 0."""
    copy_latency_ticks: int
    """Always 0 (ticks)."""
    max_copy_latency_ticks: int
    """Always 0 (ticks)."""
    min_copy_latency_ticks: int
    """Always 0 (ticks)."""


@dataclass(frozen=True, kw_only=True)
class ConfigCall:
    """A call of a configuration."""

    method: str
    """What is called."""
    params: dict[str, Any] | None = None
    """Its parameters, by name; absent when there are none."""


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A virtio controller."""

    name: str
    """Its name."""
    dev_type: str
    """Kind of device: "blk" or "scsi"."""
    trtype: str
    """Transport, as given to bdev_virtio_attach_controller."""
    traddr: str
    """Socket path, or PCI address."""
    state: str
    """What it does; it serves I/O when it is up: attaching, up, reconnecting, detaching, gone."""
    reconnects: int
    """Times that its device was lost and came back."""
    on_loss: str
    """What becomes of writes that were not flushed when the device is lost: keep, report, ignore."""
    kept: Kept
    """Writes that are kept until they are flushed."""
    virtio: Virtio
    """Its queues, and how it is reached."""
    queues: list[Queue]
    """Its virtqueues."""
    bdevs: list[str] | None = None
    """Names of its bdevs; absent when it has none."""
    waits_for: str | None = None
    """The old device that must be gone before it connects again; absent when it waits for none."""
    quarantine: Quarantine | None = None
    """Memory that an old device may still use; absent when there is none."""
    why: str | None = None
    """Why it does not serve I/O, and what to do where virtiod can't help itself; absent while it is up."""
    unused: list[str] | None = None
    """What the device has that can't be used, as a unit of block size 0, and why; absent when there is none."""


@dataclass(frozen=True, kw_only=True)
class DriverSpecific:
    """What only bdevs of one kind have."""

    virtio: Virtio | None = None
    """Its controller, if it is a virtio disk."""
    blk: BlkUnit | None = None
    """The disk, if that is virtio-blk."""
    scsi: ScsiUnit | None = None
    """The disk, if that is virtio-scsi."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Latencies in buckets: 2 to the power of the granularity for each range of a power of two."""

    histogram: str
    """Counts of the buckets: 64-bit little-endian numbers, in base64."""
    granularity: int
    """2 to the power of it is the number of buckets of a range."""
    min_range: int
    """First range."""
    max_range: int
    """Last range."""
    tsc_rate: int
    """Ticks per second: the unit of the latencies."""


@dataclass(frozen=True, kw_only=True)
class IoChannel:
    """A bdev on a poller."""

    name: str
    """The name of the bdev after "bdev_"."""
    ref: int
    """Always 1."""


@dataclass(frozen=True, kw_only=True)
class IoChannels:
    """The channels of each poller."""

    tick_rate: int
    """Ticks per second."""
    threads: list[ThreadChannels]
    """One for each poller."""


@dataclass(frozen=True, kw_only=True)
class IoStat:
    """I/O statistics: of bdevs, or with per_channel of the channels of one."""

    tick_rate: int
    """Ticks per second."""
    ticks: int
    """When this was, on a monotonic clock (ticks)."""
    name: str | None = None
    """With per_channel, name of the bdev."""
    channels: list[ChannelIoStat] | None = None
    """With per_channel, one for each poller."""
    bdevs: list[BdevIoStat] | None = None
    """Without per_channel."""


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """The report of a job: one bdev, from one poller."""

    job: str
    """Name of the bdev."""
    core_mask: str
    """The poller's core, as a mask: 0x and hexadecimal digits."""
    workload: str
    """Pattern."""
    percentage: int | None = None
    """Reads of randrw (%)."""
    status: str
    """How it ended: "finished", "failed" (an I/O has) or "terminated" (before its time)."""
    queue_depth: int
    """I/Os in flight."""
    io_size: int
    """Size of an I/O (bytes)."""
    runtime: float
    """From the first I/O to the last (s)."""
    ios: int
    """I/Os that ended, failed ones too; verify: its writes and its reads."""
    bytes: int
    """Bytes of the I/Os that succeeded (bytes)."""
    iops: float
    """I/Os per second that succeeded (IOPS)."""
    mibps: float
    """Throughput of those (MiB/s)."""
    io_failed: int
    """I/Os that failed."""
    io_timeout: int
    """Those of io_failed that took too long."""
    io_mismatched: int
    """Reads of verify that found other data than was written."""
    avg_latency_us: float
    """Mean latency of all that ended, as are all latencies (us)."""
    min_latency_us: float
    """Smallest latency (us)."""
    max_latency_us: float
    """Largest latency (us)."""
    p50_latency_us: float
    """Median latency (us)."""
    p99_latency_us: float
    """Latency that 99 % stayed below (us)."""
    p99_9_latency_us: float
    """Latency that 99.9 % stayed below (us)."""
    keeps_writes: bool
    """Its writes were kept until a flush, as a copy: the bdev's on_loss is keep."""
    first_error: str | None = None
    """The first failure's cause; absent when nothing failed."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Writes that were acknowledged and are not known to be stable, of all bdevs of a controller."""

    records: int
    """Kept writes, in parts of up to 256 KiB."""
    bytes: int
    """What they wrote (bytes)."""
    flushes: int
    """Flushes of virtiod's own, to keep no more than may be kept."""
    repeated: int
    """Kept writes that were written again."""
    losses: int
    """Times that acknowledged writes were lost."""


@dataclass(frozen=True, kw_only=True)
class LargeBuffers:
    """How buffers of 64 KiB were taken."""

    cache: int
    """Taken from a poller's own."""
    main: int
    """Always 0: pollers share no buffers."""
    retry: int
    """Times that there were too few."""


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """How much I/O was done, and how fast."""

    runtime: float
    """From the first I/O to the last (s)."""
    ios: int
    """I/Os that ended, failed ones too; verify: its writes and its reads."""
    bytes: int
    """Bytes of the I/Os that succeeded (bytes)."""
    iops: float
    """I/Os per second that succeeded (IOPS)."""
    mibps: float
    """Throughput of those (MiB/s)."""
    io_failed: int
    """I/Os that failed."""
    io_timeout: int
    """Those of io_failed that took too long."""
    io_mismatched: int
    """Reads of verify that found other data than was written."""
    avg_latency_us: float
    """Mean latency of all that ended, as are all latencies (us)."""
    min_latency_us: float
    """Smallest latency (us)."""
    max_latency_us: float
    """Largest latency (us)."""
    p50_latency_us: float
    """Median latency (us)."""
    p99_latency_us: float
    """Latency that 99 % stayed below (us)."""
    p99_9_latency_us: float
    """Latency that 99.9 % stayed below (us)."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The report of a load."""

    results: list[JobReport]
    """One for each bdev and poller."""
    core_count: int
    """Cores of the pollers that were used."""
    totals: LoadFigures
    """All together."""


@dataclass(frozen=True, kw_only=True)
class LogState:
    """Whether what is logged can be written."""

    dropping: bool
    """Whether messages are dropped now: nobody reads the log, or its disk is full."""
    dropped: int
    """Messages that were dropped since the start."""


@dataclass(frozen=True, kw_only=True)
class NbdExport:
    """An NBD export."""

    name: str
    """Its name."""
    bdev_name: str
    """The bdev that it offers."""
    size: int
    """Capacity (bytes)."""
    block_size: int
    """The smallest that clients may use (bytes)."""
    read_only: bool
    """It refuses writes."""
    description: str
    """Shown to clients that list exports."""
    max_connections: int
    """Most connections at the same time."""
    connections: int
    """Clients that are connected."""
    uris: list[str]
    """Where clients find it."""


@dataclass(frozen=True, kw_only=True)
class Notification:
    """Something that happened."""

    type: str
    """What, as notify_get_types lists it."""
    ctx: str
    """Name of the bdev."""
    id: int
    """Counts up from 0, and is never used twice."""


@dataclass(frozen=True, kw_only=True)
class OtherIoStat:
    """Statistics that SPDK has no members for."""

    num_flush_ops: int
    """I/Os that succeeded."""
    num_write_zeroes_ops: int
    """I/Os that succeeded."""
    oldest_io_ticks: int
    """Age of the oldest I/O in flight; 0 for none (ticks)."""


@dataclass(frozen=True, kw_only=True)
class PolledSource:
    """A queue or a connection that is polled."""

    name: str
    """Its name."""
    id: int
    """Number on this poller, from 1."""
    state: str
    """Always "waiting"."""
    run_count: int
    """Times that it was polled."""
    busy_count: int
    """Times that there was work."""


@dataclass(frozen=True, kw_only=True)
class Poller:
    """A poller."""

    name: str
    """Name of the poller."""
    id: int
    """Number of the poller, from 1."""
    cpu: int
    """Its core; -1 when it may run on any."""
    tid: int
    """Its thread, as the kernel numbers it."""
    mode: str
    """How it waits for work: "adaptive" or "busy"."""
    busy: int
    """Time in rounds that found work (ticks)."""
    idle: int
    """Time in other rounds (ticks)."""
    sleep: int
    """Time asleep (ticks)."""
    rounds: int
    """Rounds that it made."""
    sleeps: int
    """Times that it fell asleep."""
    in_flight: int
    """I/Os in flight."""


@dataclass(frozen=True, kw_only=True)
class Pollers:
    """The pollers."""

    tick_rate: int
    """Ticks per second."""
    ticks: int
    """When this was, on a monotonic clock (ticks)."""
    pollers: list[Poller]
    """One for each core of -m."""


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Memory that nobody gets until the devices of old sessions are known to have stopped, or to be gone."""

    sessions: int
    """Old sessions whose device may still use it."""
    small_bytes: int
    """Small buffers of pollers (4 KiB) (bytes)."""
    large_bytes: int
    """Large buffers of pollers (64 KiB) (bytes)."""
    memory_bytes: int
    """Rings, and other pieces of DMA memory (bytes)."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A virtqueue in use."""

    index: int
    """Its number among queues of its kind, from 0."""
    size: int
    """Entries of its ring."""
    in_flight: int
    """Requests that the device has."""
    kicks: int
    """Times that the device was told of new requests."""
    interrupts: int
    """Times that the device ended a sleep of the poller."""
    full: int
    """Times that an I/O had to wait for room."""
    poller: str
    """Name of the poller that it is on."""


@dataclass(frozen=True, kw_only=True)
class RateLimits:
    """Limits of a bdev's I/O: virtiod has none."""

    rw_ios_per_sec: int
    """Always 0."""
    rw_mbytes_per_sec: int
    """Always 0."""
    r_mbytes_per_sec: int
    """Always 0."""
    w_mbytes_per_sec: int
    """Always 0."""


@dataclass(frozen=True, kw_only=True)
class Reactor:
    """The core of a poller."""

    lcore: int
    """Number of the core; -1 when the poller may run on any."""
    numa_id: int
    """Its NUMA node; -1 when the kernel knows none."""
    tid: int
    """The poller's thread, as the kernel numbers it."""
    busy: int
    """Time in rounds that found work (ticks)."""
    idle: int
    """Time in other rounds, and asleep (ticks)."""
    in_interrupt: bool
    """Always false."""
    irq: int
    """The core's time in interrupts (the kernel's clock ticks)."""
    sys: int
    """The core's time in the kernel (the kernel's clock ticks)."""
    usr: int
    """The core's time in programs (the kernel's clock ticks)."""
    lw_threads: list[ReactorThread]
    """The one poller."""


@dataclass(frozen=True, kw_only=True)
class ReactorThread:
    """What runs on a poller's core."""

    name: str
    """Name of the poller."""
    id: int
    """Number of the poller, from 1."""
    cpumask: str
    """Its core, as a mask in hexadecimal."""
    elapsed: int
    """Since it was made (ticks)."""


@dataclass(frozen=True, kw_only=True)
class Reactors:
    """What each poller's core does."""

    tick_rate: int
    """Ticks per second."""
    pid: int
    """The daemon's process."""
    reactors: list[Reactor]
    """In the order of the pollers."""


@dataclass(frozen=True, kw_only=True)
class ReloadedConfig:
    """What a reload of the configuration file has changed."""

    created: list[str]
    """Names of what was created."""
    deleted: list[str]
    """Names of what was deleted."""
    called: list[str]
    """Methods of other calls that were made."""


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How pollers are given to cores."""

    scheduler_name: str
    """Always "static": each poller stays on its core."""
    scheduler_period: int
    """Always 0: nothing is moved (us)."""
    isolated_core_mask: str
    """Always "0": no core is left out."""
    scheduling_core: int
    """The first core of -m; -1 when its poller may run on any."""


@dataclass(frozen=True, kw_only=True)
class ScsiController:
    """A virtio-scsi controller."""

    name: str
    """Its name."""
    virtio: Virtio
    """Its queues, and how it is reached."""


@dataclass(frozen=True, kw_only=True)
class ScsiUnit:
    """A disk of a virtio-scsi controller."""

    target: int
    """SCSI target."""
    lun: int
    """Logical unit of the target."""
    vendor: str
    """As INQUIRY tells it."""
    product: str
    """As INQUIRY tells it."""
    revision: str
    """As INQUIRY tells it."""
    serial: str
    """Serial number; "" when the unit has none."""
    other_paths: list[str] | None = None
    """Other bdevs whose unit has the same unique name, as it is the same one; absent when there are none."""


@dataclass(frozen=True, kw_only=True)
class SmallBuffers:
    """How buffers of 4 KiB were taken."""

    cache: int
    """Taken from a poller's own."""
    main: int
    """Always 0: pollers share no buffers."""
    retry: int
    """Always 0: when all are in use, a large one is taken."""


@dataclass(frozen=True, kw_only=True)
class Subsystem:
    """A part of the daemon that has a configuration of its own."""

    subsystem: str
    """Its name."""
    depends_on: list[str]
    """Those that are configured before it."""


@dataclass(frozen=True, kw_only=True)
class ThreadChannels:
    """A poller, and the bdevs that have a channel on it."""

    name: str
    """Name of the poller."""
    io_channels: list[IoChannel]
    """One for each bdev."""


@dataclass(frozen=True, kw_only=True)
class ThreadPollers:
    """What each poller polls."""

    tick_rate: int
    """Ticks per second."""
    threads: list[ThreadSources]
    """One for each poller."""


@dataclass(frozen=True, kw_only=True)
class ThreadSources:
    """A poller, and what it polls."""

    name: str
    """Name of the poller."""
    id: int
    """Number of the poller, from 1."""
    active_pollers: list[PolledSource]
    """Its queues and connections."""
    timed_pollers: list[PolledSource]
    """Always empty."""
    paused_pollers: list[PolledSource]
    """Always empty."""


@dataclass(frozen=True, kw_only=True)
class ThreadStats:
    """How long each poller was busy."""

    tick_rate: int
    """Ticks per second."""
    threads: list[ThreadTimes]
    """One for each poller."""


@dataclass(frozen=True, kw_only=True)
class ThreadTimes:
    """A poller, and how long it was busy."""

    name: str
    """Name of the poller."""
    id: int
    """Number of the poller, from 1."""
    cpumask: str
    """Its core, as a mask in hexadecimal."""
    busy: int
    """Time in rounds that found work (ticks)."""
    idle: int
    """Time in other rounds, and asleep (ticks)."""
    active_pollers_count: int
    """Queues and connections that it polls."""
    timed_pollers_count: int
    """Always 0."""
    paused_pollers_count: int
    """Always 0."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """The version of virtiod."""

    version: str
    """For people: "virtiod v" and the numbers."""
    fields: VersionFields
    """Its parts."""


@dataclass(frozen=True, kw_only=True)
class VersionFields:
    """The parts of a version."""

    major: int
    """First number."""
    minor: int
    """Second number."""
    patch: int
    """Third number."""
    suffix: str
    """What follows the numbers."""


@dataclass(frozen=True, kw_only=True)
class Virtio:
    """A controller's queues, and how it is reached."""

    vq_count: int
    """Virtqueues in use, with SCSI's control and event queues."""
    vq_size: int
    """Entries of a request queue's ring; 0 until the device was reached."""
    type: str
    """How it is reached: "user" (vhost-user) or "pci-modern"."""
    socket: str | None = None
    """Path of the vhost-user socket."""
    pci_address: str | None = None
    """Address of the PCI device."""


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file that the daemon has written."""

    filename: str
    """Its path."""
